"""Facts about a prepared dataset, kept in `recllm.json` beside its records."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recllm_tasks import checksums
from recllm_tasks.data.catalog import FILE_NAME as CATALOG_FILE
from recllm_tasks.data.formats import Layout
from recllm_tasks.data.options import KEEP, RANDOM, TIME, Options
from recllm_tasks.data.semantic_ids import Collisions
from recllm_tasks.data.sources import SourceFile
from recllm_tasks.data.specs import SPECS, DatasetSpec
from recllm_tasks.data.statistics import SplitCounts, Statistics
from recllm_tasks.data.ties import TieCounts
from recllm_tasks.errors import UserError
from recllm_tasks.files import from_object

BUILDER = "rec_sequences"
VERSION = "1.0.0"
FILE_NAME = "recllm.json"

# Options that older datasets did not have. They are in a fingerprint only where they are not the
# default, so that fingerprints stay the same.
_LATER_OPTIONS = (
    "candidate_sampling",
    "repeats",
    "split",
    "validation_from",
    "test_from",
    "validation_share",
    "test_share",
    "withhold_items",
    "catalog",
)

# Facts about layouts that older datasets did not have, likewise.
_LATER_FACTS = ("aliases", "time_format", "decimal", "unrated", "order")

# Increased whenever the same raw files would give different records or another catalog.
FORMAT_VERSION = 1

_FILES = (FILE_NAME, CATALOG_FILE, "dataset_info.json", "features.json")


def dataset_dir(data_dir: str | Path, name: str) -> Path:
    """The folder of a prepared dataset inside TFDS's data folder."""
    return Path(data_dir).expanduser() / BUILDER / name / VERSION


def compute_fingerprint(
    spec: DatasetSpec,
    sources: Sequence[SourceFile],
    options: Options,
    bad_records: str,
    ids_digest: str = "",
    before: str = "",
) -> str:
    """SHA-256 (hex) of all that determines a prepared dataset; paths and file names do not.

    `ids_digest` is that of semantic ids, because k-means may differ between releases of a library;
    it is "" for other ids. `before` is the fingerprint of the dataset that the sources were
    appended to; "" for none.
    """
    chosen = dataclasses.asdict(options)
    ids = chosen.pop("ids")
    later = {name: chosen.pop(name) for name in _LATER_OPTIONS}
    changed = {name: value for name, value in later.items() if value != getattr(Options, name)}
    format = dataclasses.asdict(spec.format)
    for layout in (*format["interactions"].values(), *format["items"].values()):
        for fact in _LATER_FACTS:
            # What aliases find is in the catalog, which has its own checksum.
            if fact == "aliases" or layout[fact] == getattr(Layout, fact):
                del layout[fact]
    facts = [
        FORMAT_VERSION,
        spec.name,
        [source.sha256 for source in sources],
        chosen,
        format,
        [spec.noun, spec.verb, spec.verb_past],
        bad_records,
        # Fingerprints of datasets with random ids are older than id schemes, and stay the same.
        *([] if ids == RANDOM else [ids, ids_digest]),
        *([changed] if changed else []),
        *([{"appended to": before}] if before else []),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def compute_split_fingerprint(
    spec: DatasetSpec,
    sources: Sequence[SourceFile],
    options: Options,
    bad_records: str,
    before: str = "",
) -> str:
    """SHA-256 (hex) of what determines records and catalog rows, but not short ids.

    It is the fingerprint of the same dataset with random ids. `sources` excludes item embeddings,
    which only semantic ids depend on. `before` is the split fingerprint of the dataset that the
    sources were appended to.
    """
    with_random_ids = dataclasses.replace(options, ids=RANDOM)
    return compute_fingerprint(spec, sources, with_random_ids, bad_records, before=before)


def digest_records(directory: str | Path) -> str:
    """SHA-256 (hex) of the files of records in a folder, and of their names.

    Our choice: the fingerprint is of what determines the records and is known before they exist, so
    that a prepared dataset is recognised; this digest is of what was written. The same fingerprint
    gives the same records, byte for byte.
    """
    files = sorted(Path(directory).glob("*.tfrecord-*"))
    facts = [[path.name, checksums.sha256(path)] for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What `prepare` found and chose.

    `duplicates_dropped` counts repeated (user, item) interactions, of which the first is kept, and
    `repeats_kept` those that stay in the sequences: see `Options.repeats`; `short_users_dropped`
    counts users with fewer than three interactions, whom leave-one-out cannot split, or those of
    whom a split by time has no record; `bad_records` counts lines set aside. `source_files` maps
    the name of each raw file to its SHA-256, in reading order. `like_threshold`, `window`,
    `candidates`, `candidate_sampling`, `ties`, `ids`, `repeats` and `split` are as in `Options`;
    the defaults apply to datasets prepared before there were options. The dates are those of the
    cuts, also where shares were given. `withhold_items` is as in `Options`. `split_counts` is None
    for datasets that are older than it, `tie_counts` if ties were not counted. `ids_digest` and
    `collisions` describe semantic ids. `split_fingerprint` is the same for all id schemes, so
    results on them can be compared; older datasets use their fingerprint. `records_digest` is
    `digest_records` of what was written, and "" for datasets prepared before there was one.
    `catalog` is as in `Options`. `single_item_users` counts users with one item in train; 0 for
    datasets that are older. `appended` holds the size of the catalog before each `--append` (the
    items of each part are in random order), `appended_to` the fingerprints of those datasets.
    """

    dataset: str
    title: str
    noun: str
    verb: str
    verb_past: str
    has_ratings: bool
    seed: int
    k_core: int
    duplicates_dropped: int
    source_files: dict[str, str]
    fingerprint: str
    statistics: Statistics
    like_threshold: float = Options.like_threshold
    window: int = Options.window
    candidates: int = Options.candidates
    ties: str = Options.ties
    short_users_dropped: int = 0
    bad_records: int = 0
    tie_counts: TieCounts | None = None
    ids: str = Options.ids
    ids_digest: str = ""
    collisions: Collisions | None = None
    split_fingerprint: str = ""
    records_digest: str = ""
    candidate_sampling: str = Options.candidate_sampling
    repeats: str = Options.repeats
    repeats_kept: int = 0
    split: str = Options.split
    validation_from: float | None = None
    test_from: float | None = None
    validation_share: float = 0.0
    test_share: float = 0.0
    withhold_items: float = 0.0
    split_counts: SplitCounts | None = None
    catalog: str = Options.catalog
    single_item_users: int = 0
    appended: list[int] = dataclasses.field(default_factory=list)
    appended_to: list[str] = dataclasses.field(default_factory=list)

    @property
    def keeps_repeats(self) -> bool:
        """Whether a sequence may hold an item several times, so that a seen item may be next."""
        return self.repeats == KEEP

    @property
    def protocol(self) -> str:
        """What results on this dataset mean: rows of two protocols never share a table."""
        changes = {"repeats": self.keeps_repeats, "withheld": self.withhold_items > 0}
        return "-".join([self.split, *(name for name, is_it in changes.items() if is_it)])

    @property
    def hides_items(self) -> bool:
        """Whether the protocol keeps some items out of training, texts included."""
        return self.split == TIME or self.withhold_items > 0

    def users_of(self, split: str) -> int:
        """Records of a split."""
        return self.split_counts.users[split] if self.split_counts else self.statistics.users

    def to_json(self) -> dict[str, Any]:
        """A dict that `json` can write."""
        return dataclasses.asdict(self)

    def save(self, directory: str | Path) -> None:
        """Writes `recllm.json` into an existing folder."""
        text = json.dumps(self.to_json(), indent=2, sort_keys=True, ensure_ascii=False)
        (Path(directory) / FILE_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> "DatasetInfo":
        """Reads the facts of the dataset in `directory` (see `dataset_dir`).

        Raises `UserError` if the dataset is missing or incomplete, or its facts were changed.
        """
        directory = Path(directory)
        name, data_dir = directory.parent.name, directory.parents[2]
        command = f"recllm prepare {name} --data_dir {data_dir}"
        if name not in SPECS:
            command += " --interactions FILE"
        elif not SPECS[name].in_wheel:
            command += " --raw_dir RAW_DIR"
        if not directory.is_dir():
            raise UserError(
                f"dataset '{name}' is not prepared in {data_dir}: got no folder {directory}, "
                f"expected {_FILES[0]} and the records in it; run `{command}`"
            )
        missing = [file for file in _FILES if not (directory / file).is_file()]
        if missing:
            raise UserError(
                f"dataset '{name}' is incomplete in {data_dir}: got a folder {directory} without "
                f"{', '.join(missing)}, expected all files; run `{command} --overwrite`"
            )
        small = [file for file in _FILES if file != CATALOG_FILE]
        checksums.check(directory, f"run `{command} --overwrite`", small)
        try:
            facts = json.loads((directory / FILE_NAME).read_text(encoding="utf-8"))
            if not isinstance(facts, dict):
                raise ValueError(f"a {type(facts).__name__} in place of an object")
            facts["statistics"] = from_object(Statistics, facts["statistics"])
            for field, kind in (
                ("tie_counts", TieCounts),
                ("collisions", Collisions),
                ("split_counts", SplitCounts),
            ):
                if facts.get(field):
                    facts[field] = from_object(kind, facts[field])
            facts["split_fingerprint"] = facts.get("split_fingerprint") or facts["fingerprint"]
            return from_object(cls, facts)
        except (ValueError, KeyError) as error:
            raise UserError(
                f"facts of dataset '{name}' in '{directory / FILE_NAME}': got {error}, expected "
                f"what `recllm prepare` wrote; run `{command} --overwrite`"
            ) from error


def list_datasets(data_dir: str | Path) -> list[str]:
    """The names of the datasets that have a folder in TFDS's data folder, sorted."""
    folders = (Path(data_dir).expanduser() / BUILDER).glob(f"*/{VERSION}")
    return sorted(folder.parent.name for folder in folders if folder.is_dir())


def open_dataset(data_dir: str | Path, name: str) -> DatasetInfo:
    """The facts of the dataset `name` prepared in `data_dir`; `UserError` if it is missing."""
    return DatasetInfo.load(dataset_dir(data_dir, name))
