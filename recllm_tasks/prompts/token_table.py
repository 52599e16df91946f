"""Token tables of a catalog: every item written in one form and tokenised once.

The T5 vocabulary never merges across a space, so a prompt's tokens are the concatenated tokens of
its parts. Items are therefore tokenised in advance and gathered.
"""

import array
import dataclasses
import functools
import itertools
import string
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.errors import UserError
from recllm_tasks.prompts.batches import of_splits
from recllm_tasks.prompts.escaping import escape

# Texts per call of SentencePiece, which uses all cores; their Python lists take about 5 MB.
_CHUNK = 1 << 14


@dataclasses.dataclass(frozen=True, eq=False)
class TokenTable:
    """Tokens of texts, one row per text.

    Attributes:
      values: uint16 or int32 [total], the concatenated tokens of all rows; it may be mapped from a
        file.
      splits: int64 [rows + 1]; row r is values[splits[r]:splits[r + 1]].
    """

    values: np.ndarray
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.splits) - 1

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int32 [rows]."""
        return np.diff(self.splits).astype(np.int32)

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # Made outside of any graph: a graph of more than 2 GB cannot be serialised.
        with tf.init_scope():
            return tuple(tf.constant(a) for a in (self.values, self.splits, np.diff(self.splits)))

    def gather(self, rows: tf.RaggedTensor) -> tf.RaggedTensor:
        """The tokens of each row of `rows`, whose values are rows of the table, joined; int32."""
        values, splits, _ = self._tensors
        tokens = tf.gather(of_splits(values, splits), rows.values)
        return of_splits(
            tf.cast(tokens.values, tf.int32), tf.gather(tokens.row_splits, rows.row_splits)
        )

    def costs(self, rows: tf.Tensor) -> tf.Tensor:
        """How many tokens each of some rows has, int64 of their shape."""
        return tf.gather(self._tensors[2], rows)


def tokenise(texts: Iterable[str], vocabulary: seqio.Vocabulary) -> TokenTable:
    """Tokens of each text, each starting a word."""
    return TokenTable(*encode(texts, vocabulary))


def encode(texts: Iterable[str], vocabulary: seqio.Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of all texts in little memory, for millions of ids.

    Returns:
      The concatenated tokens, uint16 if the vocabulary is small enough, otherwise int32; and int64
      [texts + 1], where each text starts.
    """
    values = array.array("H" if vocabulary.vocab_size <= 1 << 16 else "i")
    lengths = array.array("i", [0])
    texts = iter(texts)
    while chunk := list(itertools.islice(texts, _CHUNK)):
        rows = vocabulary.tokenizer.EncodeAsIds(chunk)
        lengths.extend(map(len, rows))
        values.extend(itertools.chain.from_iterable(rows))
    return np.asarray(values), np.cumsum(lengths, dtype=np.int64)


def concatenate(tables: Sequence[TokenTable]) -> TokenTable:
    """The rows of all tables, in order."""
    starts = np.cumsum([0, *(len(t.values) for t in tables)])
    return TokenTable(
        values=np.concatenate([t.values for t in tables]),
        splits=np.concatenate(
            [[0], *(t.splits[1:] + start for t, start in zip(tables, starts))]
        ).astype(np.int64),
    )


def write_item(catalog: Catalog, form: str, row: int, max_words: int | None = None) -> str:
    """One item written as `form`; each of its texts is cut after `max_words` words.

    Text that looks like part of a prompt is escaped (`escaping.py`).
    """
    texts = {column: escape(getattr(catalog, column)[row]) for column in columns(form)}
    if max_words is not None:
        texts = {column: " ".join(text.split()[:max_words]) for column, text in texts.items()}
    return form.format(short_id=catalog.short_id[row], number=row + 1, **texts)


@functools.lru_cache(maxsize=64)
def columns(form: str) -> tuple[str, ...]:
    """The text columns of the catalog that a form uses."""
    named = {name for _, name, *_ in string.Formatter().parse(form)}
    return tuple(column for column in _TEXT_COLUMNS if column in named)


_TEXT_COLUMNS = ("title", "brand", "price", "categories", "description")


def item_table(
    catalog: Catalog, vocabulary: seqio.Vocabulary, form: str, max_tokens: int | None
) -> TokenTable:
    """Every item of the catalog written as `form`, in at most `max_tokens` tokens.

    A longer item keeps its id, the fixed words of the form, and as many whole words of each text as
    fit.

    Raises:
      UserError: an item does not fit even without its text.
    """
    table = tokenise(item_texts(catalog, form), vocabulary)
    if max_tokens is None or not len(table) or table.lengths.max() <= max_tokens:
        return table
    long = np.flatnonzero(table.lengths > max_tokens)
    texts = [item_text(catalog, vocabulary, form, int(row), max_tokens) for row in long]
    # Long rows are replaced by those of the shortened texts, which are appended to the table.
    together = concatenate([table, tokenise(texts, vocabulary)])
    order = np.arange(len(table))
    order[long] = len(table) + np.arange(len(long))
    lengths = together.lengths[order]
    splits = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    places = np.arange(splits[-1]) + np.repeat(together.splits[order] - splits[:-1], lengths)
    return TokenTable(together.values[places], splits)


def item_texts(catalog: Catalog, form: str) -> Iterator[str]:
    """Yields all items written as a form, in the order of the catalog."""
    return (write_item(catalog, form, row) for row in range(len(catalog)))


def item_text(
    catalog: Catalog, vocabulary: seqio.Vocabulary, form: str, row: int, max_tokens: int | None
) -> str:
    """The text whose tokens `item_table` has in that row."""
    text = write_item(catalog, form, row)
    if max_tokens is None or len(vocabulary.encode(text)) <= max_tokens:
        return text
    return _shortened(catalog, vocabulary, form, row, max_tokens)


# Texts that are joined to check that the vocabulary keeps them apart.
_JOINED_TEXTS = 16

# Segmentations whose log-probabilities differ by less are equally good: SentencePiece adds up
# float32 scores in an order that depends on the text.
_SAME_SCORE = 0.01


def check_boundaries(texts: Iterable[str], table: TokenTable, vocabulary: seqio.Vocabulary) -> None:
    """Raises UserError unless the tokens of joined texts are the joined tokens of the texts.

    Prompts are assembled on that assumption. It holds if no piece of the vocabulary reaches across
    a space, except for pieces of fixed words. Equally good segmentations of a text may be swapped.
    """
    texts, row = iter(texts), 0
    while group := list(itertools.islice(texts, _JOINED_TEXTS)):
        parts = table.values[table.splits[row] : table.splits[row + len(group)]].tolist()
        whole = vocabulary.tokenizer.EncodeAsIds(" ".join(text for text in group if text))
        row += len(group)
        if whole != parts and not _equally_good(whole, parts, vocabulary):
            raise UserError(
                f"Vocabulary '{vocabulary.sentencepiece_model_file}' cannot assemble prompts from "
                f"parts: got different tokens for '{_differing(group, vocabulary)}' as one text "
                "and as two parts, expected no piece to reach across a space; bind "
                "vocabulary.sentencepiece_file.path to T5's vocabulary, or to None for the "
                "dataset's own"
            )


def _equally_good(one: list[int], other: list[int], vocabulary: seqio.Vocabulary) -> bool:
    model = vocabulary.tokenizer
    if model.DecodeIds(one) != model.DecodeIds(other):
        return False
    scores = (sum(map(model.GetScore, ids)) for ids in (one, other))
    return abs(next(scores) - next(scores)) < _SAME_SCORE


def _differing(group: list[str], vocabulary: seqio.Vocabulary) -> str:
    """The first two adjacent texts whose tokens change when they are joined."""
    encode_ids = vocabulary.tokenizer.EncodeAsIds
    for pair in itertools.pairwise(group):
        if encode_ids(" ".join(pair)) != [token for text in pair for token in encode_ids(text)]:
            return " ".join(pair)
    return " ".join(group[:2])


def _shortened(
    catalog: Catalog, vocabulary: seqio.Vocabulary, form: str, row: int, max_tokens: int
) -> str:
    """The item with as many words of each text as fit, found by bisection."""

    def length(num_words: int) -> int:
        return len(vocabulary.encode(write_item(catalog, form, row, num_words)))

    if length(0) > max_tokens:
        raise UserError(
            f"Too few tokens for item '{catalog.short_id[row]}' written as '{form}': got room for "
            f"{max_tokens}, expected at least {length(0)}; raise the task's feature length"
        )
    fits, too_many = (
        0,
        1 + max(len(getattr(catalog, column)[row].split()) for column in columns(form)),
    )
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if length(middle) <= max_tokens:
            fits = middle
        else:
            too_many = middle
    return write_item(catalog, form, row, fits)
