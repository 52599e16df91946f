"""Facts of one prepared dataset, kept in `recllm.json` beside its records."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recllm_tasks.data.catalog import FILE_NAME as CATALOG_FILE
from recllm_tasks.data.id_schemes import RANDOM
from recllm_tasks.data.options import Options
from recllm_tasks.data.semantic_ids import Collisions
from recllm_tasks.data.sources import SourceFile
from recllm_tasks.data.specs import SPECS, DatasetSpec
from recllm_tasks.data.statistics import Statistics
from recllm_tasks.data.tie_counts import TieCounts
from recllm_tasks.errors import UserError

BUILDER = "rec_sequences"
VERSION = "1.0.0"
FILE_NAME = "recllm.json"

# Raised whenever the same raw files would give other records or another catalog.
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
) -> str:
    """SHA-256 (hex) of what fixes a prepared dataset; independent of paths and file names.

    `ids_digest` is that of semantic ids, which k-means may make otherwise with another release of
    a library; "" for other ids.
    """
    chosen = dataclasses.asdict(options)
    ids = chosen.pop("ids")
    facts = [
        FORMAT_VERSION,
        spec.name,
        [source.sha256 for source in sources],
        chosen,
        dataclasses.asdict(spec.format),
        [spec.noun, spec.verb, spec.verb_past],
        bad_records,
        # Datasets with the paper's ids keep the fingerprint that they had before there were others.
        *([] if ids == RANDOM else [ids, ids_digest]),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def compute_split_fingerprint(
    spec: DatasetSpec, sources: Sequence[SourceFile], options: Options, bad_records: str
) -> str:
    """SHA-256 (hex) of what fixes records and catalog rows, whatever the short ids.

    It is the fingerprint of the dataset with random ids. `sources` are without item embeddings,
    of which nothing but semantic ids is made.
    """
    return compute_fingerprint(spec, sources, dataclasses.replace(options, ids=RANDOM), bad_records)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What `prepare` found and chose.

    `duplicates_dropped` counts repeated (user, item) interactions, of which the first is kept;
    `short_users_dropped` users of fewer than three interactions, whom leave-one-out cannot split;
    `bad_records` lines put aside. `source_files` maps the name of each raw file to its SHA-256, in
    the order of reading. `like_threshold`, `window`, `candidates`, `ties` and `ids` are as in
    `Options`; their defaults are those of datasets that were prepared before there were options.
    `tie_counts` is None where they were not counted yet. `ids_digest` and `collisions` are those of
    semantic ids. `split_fingerprint` is the same for all id schemes: what was measured on one of
    them may be compared with the others; a dataset from before there was one has its fingerprint
    there.
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

        Raises `UserError` if the dataset is not there, or not whole.
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
                f"dataset '{name}' is not whole in {data_dir}: got a folder {directory} without "
                f"{', '.join(missing)}, expected all files; run `{command} --overwrite`"
            )
        try:
            facts = json.loads((directory / FILE_NAME).read_text(encoding="utf-8"))
            facts["statistics"] = Statistics(**facts["statistics"])
            for field, kind in (("tie_counts", TieCounts), ("collisions", Collisions)):
                if facts.get(field):
                    facts[field] = kind(**facts[field])
            facts["split_fingerprint"] = facts.get("split_fingerprint") or facts["fingerprint"]
            return cls(**facts)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"facts of dataset '{name}' in '{directory / FILE_NAME}': got {error}, expected "
                f"what `recllm prepare` wrote; run `{command} --overwrite`"
            ) from error


def list_datasets(data_dir: str | Path) -> list[str]:
    """The names of the datasets that have a folder in TFDS's data folder, sorted."""
    folders = (Path(data_dir).expanduser() / BUILDER).glob(f"*/{VERSION}")
    return sorted(folder.parent.name for folder in folders if folder.is_dir())


def open_dataset(data_dir: str | Path, name: str) -> DatasetInfo:
    """The facts of the dataset `name` prepared in `data_dir`; `UserError` if it is not there."""
    return DatasetInfo.load(dataset_dir(data_dir, name))
