"""New events of a shop's log join a prepared dataset: `recllm prepare NAME --append`.

A custom dataset keeps its log as it was read, before anything was left out, in
`interactions.parquet` beside the records. Our choice: with it the dataset becomes what it would be
if all files had been prepared together, without asking for the old files again; only the catalog's
order, and with it the ids, stays what it was, and new items follow.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np

from recllm_tasks import checksums
from recllm_tasks.data.bad_records import FILE_NAME as BAD_RECORDS_FILE
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import DatasetInfo, dataset_dir
from recllm_tasks.data.formats import BY_FILE
from recllm_tasks.data.metadata import ItemText
from recllm_tasks.data.options import SEMANTIC, Options
from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError

LOG = "interactions.parquet"

_CUTS = ("validation_from", "test_from", "validation_share", "test_share")
_TEXTS = tuple(field.name for field in dataclasses.fields(ItemText))


@dataclasses.dataclass(frozen=True, eq=False)
class Before:
    """A prepared dataset that new events join."""

    info: DatasetInfo
    catalog: Catalog
    folder: Path

    @classmethod
    def open(cls, data_dir: Path, name: str) -> "Before":
        """Raises UserError if there is no such dataset, or none that can be appended to."""
        folder = dataset_dir(data_dir, name)
        if not folder.exists():
            raise UserError(
                f"dataset '{name}' for --append: got none in {data_dir}, expected one that was "
                "prepared before; leave --append out to prepare it from these files"
            )
        info = DatasetInfo.load(folder)
        if info.withhold_items:
            raise UserError(
                f"dataset '{name}' for --append: got one with withheld items, expected one "
                "without, since new items would change which are withheld; prepare it from all "
                "files together, with --overwrite"
            )
        if not (folder / LOG).is_file():
            raise UserError(
                f"dataset '{name}' for --append: got no {LOG} in {folder}, expected the log that "
                "`recllm prepare` keeps of --interactions; prepare it once from all files "
                "together, with --overwrite"
            )
        checksums.check(folder, "prepare it from all files together, with --overwrite", [LOG])
        return cls(info, Catalog.load(folder), folder)

    @property
    def files(self) -> tuple[Path, ...]:
        """Files beside the records that the new dataset keeps; their pieces have its ids."""
        return tuple(path for path in [self.folder / "vocabulary.model"] if path.exists())

    def spec(self, given: DatasetSpec) -> DatasetSpec:
        """The spec of the new files with the dataset's own wording."""
        own = {name: getattr(self.info, name) for name in ("title", "noun", "verb", "verb_past")}
        return dataclasses.replace(given, **own)

    def options(self, given: Options) -> Options:
        """The dataset's own options; where a split by time is cut may be `given` anew.

        Raises:
          UserError: another option is given, and it is not the dataset's own.
        """
        own = {field.name: getattr(self.info, field.name) for field in dataclasses.fields(Options)}
        if self.info.validation_share:  # the dates are those that came of the shares
            own |= {"validation_from": None, "test_from": None}
        for option, value in dataclasses.asdict(given).items():
            if option not in _CUTS and value not in (own[option], getattr(Options, option)):
                raise UserError(
                    f"{option} for '{self.info.dataset}': got {value!r} with --append, expected "
                    f"the dataset's own, {own[option]!r}; leave --{option} out, or prepare all "
                    "files together with --overwrite"
                )
        cuts = {option: getattr(given, option) for option in _CUTS}
        if any(cuts.values()):
            own |= cuts
        return Options(**own)

    def with_texts(self, catalog: Catalog) -> Catalog:
        """The catalog with the ids and texts that known items had.

        Our choice: they stay, because embeddings, codes and vocabulary were made of them; but an
        item without any gets those of the new files, unless its code says that it has none.
        """
        old = self.catalog
        filled = np.zeros(len(old), bool)
        if self.info.ids != SEMANTIC:
            filled = ~np.any([np.array(getattr(old, name), bool) for name in _TEXTS], axis=0)
        columns = {"short_id": old.short_id + catalog.short_id[len(old) :]}
        for name in _TEXTS:
            own, given = getattr(old, name), getattr(catalog, name)
            known = [new if fill else text for text, new, fill in zip(own, given, filled)]
            columns[name] = known + given[len(old) :]
        return dataclasses.replace(catalog, **columns)

    def with_bad_records(self, file: Path) -> None:
        """Puts the bad lines that were set aside before in front of those in `file`."""
        earlier = self.folder / BAD_RECORDS_FILE
        if earlier.is_file():
            later = file.read_bytes() if file.exists() else b""
            file.write_bytes(earlier.read_bytes() + later)


class Joined(NamedTuple):
    """Events of the new files: those that the log lacked, and those that it had."""

    new: int
    known: int


def keep_log(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, folder: Path) -> Path:
    """Writes the table `raw_interactions` to `folder`; returns the file.

    Where the order of lines counts, there are no times.
    """
    time = "null::double as time" if _is_by_line(spec) else "time"
    connection.execute(
        f"copy (select line, user_id, item_id, {time}, rating from raw_interactions) "
        f"to {_quoted(folder / LOG)} (format parquet, compression zstd)"
    )
    return folder / LOG


def join_log(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, before: Before) -> Joined:
    """Puts the log in front of the table `raw_interactions`.

    Our choice: exports may overlap, so an event (user, item, time) that the log has n times counts
    only from its n + 1st time on; its rating is the one that the log has. Where only the order of
    lines is known, all events are new.

    Raises:
      UserError: one of both has times, the other only the order of its lines.
    """
    log = f"read_parquet({_quoted(before.folder / LOG)})"
    (last, timed) = connection.execute(f"select max(line), count(time) from {log}").fetchall()[0]
    by_line = _is_by_line(spec)
    if by_line == bool(timed):
        had, got = ("times", "the order of lines") if timed else ("the order of lines", "times")
        raise UserError(
            f"interactions to append to '{spec.name}': got {got}, expected {had} as in the "
            f"dataset's log; {'leave out' if timed else 'give'} --order file"
        )
    given = _count(connection)
    # Only events that the log has too are numbered: they are few.
    connection.execute(f"""
        create or replace temp table known_events as
        select user_id, item_id, time, count(*) as times from {log}
        semi join raw_interactions using (user_id, item_id, time) group by all
    """)
    connection.execute("""
        delete from raw_interactions where line in (
            select line from (
                select line, times,
                    row_number() over (partition by user_id, item_id, time order by line) as n
                from raw_interactions join known_events using (user_id, item_id, time)
            ) where n <= times)
    """)
    new = _count(connection)
    shifted = f"time + {last} as time" if by_line else "time"
    connection.execute(f"""
        create or replace table raw_interactions as
        select line, user_id, item_id, coalesce(time, line) as time, rating, true as ok from {log}
        union all
        select line + {last}, user_id, item_id, {shifted}, rating, ok from raw_interactions
    """)
    return Joined(new, given - new)


def _count(connection: duckdb.DuckDBPyConnection) -> int:
    return connection.execute("select count(*) from raw_interactions").fetchall()[0][0]


def _is_by_line(spec: DatasetSpec) -> bool:
    return any(layout.order == BY_FILE for layout in spec.format.interactions.values())


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
