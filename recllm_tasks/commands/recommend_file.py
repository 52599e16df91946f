"""Recommendations for many users in one file, made in parts: a killed job resumes.

The parts lie in `<file>.partial/` until the last one is there, and are then joined in one file. A
part holds whole chunks of users, which are decoded in the same batches each time, and the row
groups of the file do not depend on the parts: a resumed job writes the same bytes.
"""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from recllm_tasks import progress
from recllm_tasks.engine.evaluation import BATCHES_IN_CHUNK
from recllm_tasks.errors import UserError
from recllm_tasks.files import LOCK, atomic_write, locked, read_json, write_json
from recllm_tasks.recommender import POPULAR, Recommendation, Recommender

PARQUET, JSON_LINES = ENDINGS = (".parquet", ".jsonl")

# A part is written after this time, or with this many chunks: what a kill can lose, and what memory
# holds. Within a chunk, users are decoded by length, which saves padding.
SECONDS_OF_PART = 20.0
CHUNKS_OF_PART = 64

# Rows of a row group of the Parquet file.
GROUP_ROWS = 1 << 17

_JOB = "job.json"
_SCHEMA = [
    ("user", pa.string()),
    ("rank", pa.int32()),
    ("item", pa.string()),
    ("short_id", pa.string()),
    ("title", pa.string()),
    ("log_prob", pa.float64()),
    ("source", pa.string()),
]
_HISTORY = ("history", pa.list_(pa.string()))


class User(NamedTuple):
    """A user to recommend for.

    Attributes:
      name: as in the dataset or the file.
      rows: of the catalog, the history's, oldest first.
      left_out: how many names of the history were left out, by the reason.
      examples: one for each reason.
    """

    name: str
    rows: Sequence[int]
    left_out: Mapping[str, int] = MappingProxyType({})
    examples: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass
class Counts:
    """What happened to users, with an example of each thing that was left out."""

    users: int = 0
    popular: int = 0
    short: int = 0
    left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, user: User, found: Sequence[Recommendation], k: int) -> None:
        self.users += 1
        self.popular += any(item.source == POPULAR for item in found)
        self.short += len(found) < k
        self.left_out.update(user.left_out)
        self.examples = {**user.examples, **self.examples}

    def merge(self, other: "Counts") -> None:
        self.users += other.users
        self.popular += other.popular
        self.short += other.short
        self.left_out.update(other.left_out)
        self.examples = {**other.examples, **self.examples}

    def lines(self, k: int) -> list[str]:
        """For people."""
        found = [
            f"{number:,} {kind}, the first: {self.examples.get(kind, '')}"
            for kind, number in self.left_out.items()
        ]
        if self.popular:
            found.append(
                f"{self.popular:,} users without an item in their history have the most popular "
                f'items, with source "{POPULAR}"'
            )
        if self.short:
            found.append(f"{self.short:,} users have fewer than {k} items: no more are left")
        return found


class Job:
    """One file that is being made."""

    def __init__(self, out: str, *, k: int, with_history: bool, overwrite: bool):
        """Args:
        out: the file, `.parquet` or `.jsonl`.
        k: items a user.
        with_history: rows hold the history too.
        overwrite: replace the file, or another job's unfinished one.

        Raises:
          UserError: another ending, no such folder, or the file exists.
        """
        self.out, self.k, self.with_history = Path(out), k, with_history
        self._overwrite = overwrite
        if self.out.suffix not in ENDINGS:
            raise UserError(
                f"--out: got '{out}', expected a name that ends in {' or '.join(ENDINGS)}; "
                "correct it"
            )
        if not self.out.parent.is_dir() or self.out.is_dir():
            raise UserError(
                f"--out: got '{out}', expected a file name in an existing folder; correct it"
            )
        if self.out.exists() and not overwrite:
            raise UserError(
                f"--out: got '{out}', which exists, expected a new file; give --overwrite to "
                "replace it"
            )
        self.folder = Path(f"{out}.partial")
        self._schema = pa.schema([*_SCHEMA, *([_HISTORY] if with_history else [])])

    @contextlib.contextmanager
    def opened(self, facts: dict[str, Any]) -> Iterator[None]:
        """Holds the job's folder while the block runs; the same facts resume what is there.

        Raises:
          UserError: an unfinished job with other facts, or one that another process works on.
        """
        facts = {
            **facts,
            "k": self.k,
            "with_history": self.with_history,
            "format": self.out.suffix,
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"Cannot write '{self.folder}': got {error.strerror}, expected a writable folder; "
                "choose another --out"
            ) from error
        with locked(self.folder, "recommendation"):
            known = read_json(self.folder / _JOB)
            others = [path.name for path in self.folder.iterdir() if path.name != LOCK]
            if known is None and others:
                raise UserError(
                    f"Parts for '{self.out}': got a folder '{self.folder}' with other files, such "
                    f"as {min(others)}, expected none; move it, or choose another --out"
                )
            if known is not None and known.get("key") != key:
                if not self._overwrite and self._counts(0).exists():
                    raise UserError(
                        f"Unfinished job in '{self.folder}': got one of another model, other "
                        "users or other settings, expected none or the same; give --overwrite to "
                        "start anew, or another --out"
                    )
                for path in self.folder.iterdir():
                    if path.name != LOCK:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            write_json(self.folder / _JOB, {"key": key})
            try:
                yield
            except UserError:
                # A mistake that is found before any user is answered leaves nothing behind.
                if not self._counts(0).exists():
                    shutil.rmtree(self.folder)
                raise

    def run(
        self, recommender: Recommender, users: Iterator[User], total: int, batch_size: int
    ) -> Counts:
        """Makes the parts that are missing, and the file; returns the counts of all.

        Args:
          recommender: the model.
          users: all of them, the same and in the same order each time.
          total: how many there are.
          batch_size: users decoded together.
        """
        size, counts, start = BATCHES_IN_CHUNK * batch_size, Counts(), time.monotonic()
        done = 0
        while (known := read_json(self._counts(done))) is not None:
            counts.merge(_counts_of(known))
            done += 1
        resumed = counts.users
        if resumed:
            progress.console.print(f"resuming after {resumed:,} users")
        users = itertools.islice(users, resumed, None)
        part: list[tuple[User, list[Recommendation]]] = []
        begun = start

        def write_part() -> None:
            nonlocal done, begun
            own = Counts()
            for user, found in part:
                own.add(user, found, self.k)
            self._write(self._part(done), recommender, part)
            # Last: a part with counts is complete.
            write_json(self._counts(done), dataclasses.asdict(own))
            counts.merge(own)
            part.clear()
            done, begun = done + 1, time.monotonic()

        with progress.work("recommend", total, min(resumed, total)) as work:
            while chunk := list(itertools.islice(users, size)):
                found = recommender.recommend_rows([user.rows for user in chunk], self.k)
                part += zip(chunk, found)
                work.advance(len(chunk))
                is_late = time.monotonic() - begun >= SECONDS_OF_PART
                if is_late or len(part) >= CHUNKS_OF_PART * size:
                    write_part()
            if part:
                write_part()
        if counts.users != total:
            raise UserError(
                f"Users for '{self.out}': got {counts.users:,}, expected {total:,}; check the "
                "dataset with `recllm doctor`, and prepare it again if it is damaged"
            )
        self._join(done)
        shutil.rmtree(self.folder)
        seconds = time.monotonic() - start
        new = counts.users - resumed
        progress.console.print(
            f"{counts.users:,} users written to {self.out}"
            + (f", {new / seconds:,.1f} a second" if new else ""),
            markup=False,
            soft_wrap=True,
        )
        return counts

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}{self.out.suffix}"

    def _counts(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.json"

    def _write(
        self,
        path: Path,
        recommender: Recommender,
        part: Sequence[tuple[User, Sequence[Recommendation]]],
    ) -> None:
        catalog = recommender.catalog
        with atomic_write(path, "wb") as f:
            if self.out.suffix == JSON_LINES:
                for user, ranked in part:
                    line = {"user": user.name, "ranked": [shown(item) for item in ranked]}
                    if self.with_history:
                        line["history"] = [catalog.names(row) for row in user.rows]
                    f.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                return
            columns: dict[str, list] = {name: [] for name in self._schema.names}
            for user, ranked in part:
                history = [catalog.item[row] for row in user.rows]
                for rank, item in enumerate(ranked, 1):
                    row = {"user": user.name, "rank": rank, "history": history, **shown(item)}
                    for name, values in columns.items():
                        values.append(row[name])
            table = pa.table(columns, schema=self._schema)
            pq.write_table(table, f, compression="zstd")

    def _join(self, parts: int) -> None:
        paths = [self._part(number) for number in range(parts)]
        with atomic_write(self.out, "wb") as f:
            if self.out.suffix == JSON_LINES:
                for path in paths:
                    with path.open("rb") as part:
                        shutil.copyfileobj(part, f)
                return
            with pq.ParquetWriter(f, self._schema, compression="zstd") as writer:
                waiting = self._schema.empty_table()
                for path in paths:
                    # One chunk of memory each, as their borders would show in the file.
                    waiting = pa.concat_tables([waiting, pq.read_table(path)]).combine_chunks()
                    while len(waiting) >= GROUP_ROWS:
                        writer.write_table(waiting.slice(0, GROUP_ROWS), GROUP_ROWS)
                        waiting = waiting.slice(GROUP_ROWS)
                if len(waiting):
                    writer.write_table(waiting, GROUP_ROWS)


def shown(item: Recommendation) -> dict[str, Any]:
    """A recommendation as a file has it: probabilities rounded, where there are any."""
    found = item._asdict()
    del found["probability"]
    if item.log_prob is not None:
        found["log_prob"] = round(item.log_prob, 6)
    return found


def _counts_of(known: dict[str, Any]) -> Counts:
    return Counts(**{**known, "left_out": collections.Counter(known["left_out"])})
