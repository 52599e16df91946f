"""Embeddings of items: of their texts, or from a file.

Semantic ids are computed from them, and the network's embeddings of atomic ids can start from them.
Texts are embedded by TF-IDF or by a local model (text_model.py). No interaction is used, held out
or not. Letters: N items, D dimensions of an embedding.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.sources import SourceFile
from recllm_tasks.data.text_model import check_model, embed_with_model
from recllm_tasks.errors import UserError

# Our choices. Words and axes are learned from the first `_SAMPLE` items, which are in random order;
# `_SAMPLE` items are embedded at a time.
_SAMPLE = 1 << 16
_WORDS = 50_000
_AXES = 128

# Our choice: the whole brand counts as one more word with this weight. Items that users bought one
# after the other are then nearer (measured on Beauty's train split). Categories got no such weight:
# it made them less near.
_BRAND_WEIGHT = 0.5

# Words of one letter or digit count, because "Puzzle 1" is not "Puzzle 2".
_WORD = r"(?u)\b\w+\b"

_ITEM, _EMBEDDING = COLUMNS = ("item", "embedding")
_LIKE = "one row per item, with its raw id in 'item' and its vector in 'embedding'"


def embed(
    catalog: Catalog,
    source: SourceFile | None,
    name: str,
    seed: int,
    advance: Callable[[int], None],
    fitted: int | None = None,
) -> np.ndarray:
    """Float32 [N, D] of the items of `catalog`.

    Args:
      catalog: in random order.
      source: checked by `check_embeddings`; None for TF-IDF.
      name: of the dataset, for errors.
      seed: for all randomness.
      advance: called with the number of items that a model has finished.
      fitted: the first so many items get what they would get alone; None is all.
    """
    if source is None:
        return embed_texts(catalog, name, seed, fitted=fitted)
    if source.path.is_dir():
        ends = sorted({fitted or len(catalog), len(catalog)})
        parts = [
            embed_with_model(source.path, list(_texts(catalog, start, stop)), advance)
            for start, stop in zip([0, *ends], ends)
        ]
        return np.concatenate(parts)
    return read_embeddings(source.path, catalog.item)


def embed_texts(
    catalog: Catalog, name: str, seed: int, axes: int = _AXES, fitted: int | None = None
) -> np.ndarray:
    """TF-IDF of each item's title, brand, categories and description, reduced by an SVD.

    Args:
      catalog: in random order.
      name: of the dataset, for errors.
      seed: for the SVD.
      axes: D at most; fewer if there are fewer items or words.
      fitted: words and axes are learned from the first so many items; None is all.

    Returns:
      float32 [N, D], rows of length 1; zeros for an item without a known word.

    Raises:
      UserError: no item has a text.
    """
    import threadpoolctl
    from sklearn import decomposition

    size, fitted = len(catalog), fitted or len(catalog)
    weights = WordWeights(catalog, name, fitted)
    sample = weights(0)[:fitted]
    axes = max(1, min(axes, sample.shape[1] - 1, fitted - 1))
    embeddings = np.empty([size, axes], np.float32)
    with threadpoolctl.threadpool_limits(1):
        svd = decomposition.TruncatedSVD(axes, random_state=seed).fit(sample)
        for start in weights.starts:
            part = svd.transform(weights(start))
            length = np.linalg.norm(part, axis=1, keepdims=True)
            embeddings[start : start + len(part)] = part / np.where(length > 0, length, 1)
    return embeddings


class WordWeights:
    """TF-IDF of the words of each item's texts, and of its brand: `_SAMPLE` items at a time."""

    def __init__(self, catalog: Catalog, name: str, fitted: int | None = None):
        """Args:
        catalog: in random order.
        name: of the dataset, for errors.
        fitted: words are learned from the first so many items; None is all.

        Raises:
          UserError: no item has a text.
        """
        self._catalog = catalog
        sample = min(_SAMPLE, fitted or len(catalog))
        self._words = _tf_idf(token_pattern=_WORD)
        self._brands = None
        self.starts = range(0, len(catalog), _SAMPLE)
        try:
            self._words.fit(_texts(catalog, 0, sample))
        except ValueError as error:
            raise UserError(
                f"texts of '{name}': got no words for its {len(catalog):,} items, expected titles, "
                "brands, categories or descriptions; prepare it with --items, or with --embeddings "
                "or other --ids than semantic"
            ) from error
        if any(catalog.brand[:sample]):
            self._brands = _tf_idf(analyzer=lambda brand: [brand] if brand else [])
            self._brands.fit(catalog.brand[:sample])

    def __call__(self, start: int) -> Any:
        """Sparse float32 [n, W] of the items from `start`, one of `starts`."""
        stop = start + _SAMPLE
        parts = [self._words.transform(_texts(self._catalog, start, stop))]
        if self._brands is not None:
            brands = self._brands.transform(self._catalog.brand[start:stop])
            parts.append(_BRAND_WEIGHT * brands)
        return sparse.hstack(parts, format="csr")


def _tf_idf(**how_to_split):
    from sklearn import feature_extraction

    return feature_extraction.text.TfidfVectorizer(
        sublinear_tf=True, max_features=_WORDS, dtype=np.float32, **how_to_split
    )


def _texts(catalog: Catalog, start: int, stop: int) -> Iterator[str]:
    for row in range(start, min(stop, len(catalog))):
        columns = (catalog.title, catalog.brand, catalog.categories, catalog.description)
        yield " ".join(column[row] for column in columns)


def network_vectors(
    catalog: Catalog,
    source: SourceFile | None,
    name: str,
    seed: int,
    width: int,
    advance: Callable[[int], None],
) -> np.ndarray:
    """Vectors that a network's embeddings of items can start from: float32 [N, width].

    Our choice: the mean is subtracted, and the widest `width` axes are kept (fewer if there are
    fewer). They stay the columns: training, whose optimizer sees each column by itself, learns
    faster than from a rotation that mixes them (measured on Toys). The mean square of all rows is
    1; a row is zero for an item without a text or a known word.

    Args: as of `embed`; the catalog is one that was prepared.
    """
    import threadpoolctl

    if source is None:
        found = embed_texts(catalog, name, seed, max(width, _AXES))
    else:
        found = embed(catalog, source, name, seed, advance)
    known = np.asarray(found.any(axis=1))
    if source is not None and source.path.is_dir():  # a model embeds the empty text too
        known &= np.array([bool(text.strip()) for text in _texts(catalog, 0, len(catalog))])
    if not known.any():
        return np.zeros([len(found), width], np.float32)
    with threadpoolctl.threadpool_limits(1):
        centred = found - found[known].mean(axis=0, dtype=np.float64).astype(np.float32)
        centred[~known] = 0
        if centred.shape[1] > width:
            _, axes = np.linalg.eigh(centred.T @ centred)
            centred = centred @ axes[:, -width:]
    vectors = np.zeros([len(found), width], np.float32)
    vectors[:, : centred.shape[1]] = centred
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # Rounding errors remain where all items have one text.
    is_clear = lengths > 1e-5 * np.linalg.norm(found, axis=1).max()
    size = np.sqrt(np.square(vectors[is_clear[:, 0]]).mean()) if is_clear.any() else 1.0
    return np.where(is_clear, vectors / size, 0).astype(np.float32)


def check_embeddings(path: str | Path) -> SourceFile:
    """The file, or the model's folder, with its SHA-256; raises `UserError` if it is unreadable."""
    path = Path(path).expanduser()
    if path.is_dir():
        return check_model(path)
    if path.suffix not in (".npy", ".parquet"):
        expected = "a .npy or .parquet file, or an existing folder"
        raise _wrong(path, f"a file that ends in '{path.suffix}'", expected)
    try:
        with path.open("rb") as file:
            return SourceFile(path, hashlib.file_digest(file, "sha256").hexdigest(), -1)
    except OSError as error:
        raise _wrong(path, error.strerror or str(error), "a readable file") from error


def read_embeddings(path: Path, items: Sequence[str]) -> np.ndarray:
    """Reads the user's own embeddings, in the order of `items`.

    Args:
      path: `.parquet` with the columns `item` (raw id) and `embedding` (a list of numbers), or
        `.npy` with a structured array of the two. It may hold more items.
      items: raw ids.

    Returns:
      float32 [N, D].

    Raises:
      UserError: the file is damaged or has another layout, an item is missing or repeated, or a
        number is not finite.
    """
    read: Callable = _read_numpy if path.suffix == ".npy" else _read_parquet
    found, embeddings = read(path)
    row_of = {item: row for row, item in enumerate(found)}
    if len(row_of) < len(found):
        twice = next(item for row, item in enumerate(found) if row_of[item] != row)
        raise _wrong(path, f"the item '{twice}' more than once", "each item once")
    missing = [item for item in items if item not in row_of]
    if missing:
        raise _wrong(
            path,
            f"no row for {len(missing):,} of {len(items):,} items, such as '{missing[0]}'",
            "one for every item of the catalog",
        )
    chosen = embeddings[[row_of[item] for item in items]].astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(chosen).all(axis=1))
    if len(bad):
        raise _wrong(
            path,
            f"numbers that are not finite for {len(bad):,} items, such as '{items[bad[0]]}'",
            "finite float32 numbers",
        )
    return chosen


def _read_numpy(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _wrong(path, str(error).splitlines()[0], "a valid .npy file") from error
    fields = getattr(rows, "dtype", None) and rows.dtype.names
    if rows.ndim != 1 or fields is None or not set(COLUMNS) <= set(fields):
        got = f"an array of shape {list(rows.shape)} and type {rows.dtype}"
        raise _wrong(path, got, f"a structured array [items]: {_LIKE}")
    ids, embeddings = rows[_ITEM], rows[_EMBEDDING]
    if ids.dtype.kind not in "USiu" or embeddings.dtype.kind not in "fiu" or embeddings.ndim != 2:
        got = f"fields of type {rows.dtype}"
        raise _wrong(path, got, "text or whole numbers, and a row of numbers")
    texts = [i.decode(errors="replace") if isinstance(i, bytes) else str(i) for i in ids.tolist()]
    return texts, embeddings


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        if not set(COLUMNS) <= set(names):
            raise _wrong(path, f"columns {', '.join(names)}", _LIKE)
        table = file.read(columns=list(COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise _wrong(path, str(error).splitlines()[0], "a valid Parquet file") from error
    lists = table[_EMBEDDING].combine_chunks()
    kind = lists.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list and not pa.types.is_fixed_size_list(kind):
        raise _wrong(path, f"'embedding' of type {kind}", "a list of numbers per row")
    number = kind.value_type
    if not (pa.types.is_floating(number) or pa.types.is_integer(number)):
        raise _wrong(path, f"'embedding' of type {kind}", "a list of numbers per row")
    lengths = np.unique(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
    if len(lengths) != 1 or lengths[0] < 1:
        got = f"lists of {', '.join(map(str, lengths[:5].tolist()))} numbers"
        raise _wrong(path, got, "the same number of them, at least one, in every row")
    # A missing number becomes NaN, which `read_embeddings` reports with its item.
    numbers = lists.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    return table[_ITEM].cast(pa.string()).to_pylist(), numbers.reshape(len(lists), -1)


def _wrong(path: Path, got: str, expected: str) -> UserError:
    return UserError(
        f"embeddings for '{path}': got {got}, expected {expected}; "
        "correct the file, or give no embeddings"
    )
