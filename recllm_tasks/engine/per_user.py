"""A row for every evaluated user, beside results.json: what was found for whom.

MODEL_DIR/per_user/<task>-<split>.parquet, one row an example, in the order of evaluation:

    user     string  as in the raw log
    target   int32   catalog row
    history  int32   items that the user had before the target, all of them
    retrieval and ranking                         rating
    rank     float64 of the target, 1 best,       liked  bool    whether the target was liked
                     inf a miss                   score  float64 higher is more liked
    items    list<int32> the first 20 answers,
                     best first; -1 no item, equal ones kept

`metrics` of a file are those of results.json: `invalid` too, of runs with at most 20 beams. The
file's own metadata, under `recllm`, say what it belongs to (JSON).
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recllm_tasks import metrics as task_metrics
from recllm_tasks.engine import run_folder
from recllm_tasks.errors import UserError

FOLDER = "per_user"
NUM_ITEMS = 20

_USERS = [("user", pa.string()), ("target", pa.int32()), ("history", pa.int32())]
RANKED = pa.schema([*_USERS, ("rank", pa.float64()), ("items", pa.list_(pa.int32()))])
RATED = pa.schema([*_USERS, ("liked", pa.bool_()), ("score", pa.float64())])

# Rows of a group: what a reader holds at once.
_GROUP = 1 << 16
MOST_ROWS = 50_000_000
_METADATA = b"recllm"


def path_of(model_dir: str | os.PathLike, task: str, split: str) -> pathlib.Path:
    """Where the rows of a task are; they need not be there."""
    return pathlib.Path(model_dir) / FOLDER / f"{task}-{split}.parquet"


def ranked(
    users: Sequence[str],
    targets: Any,
    history: Any,
    ranks: Any,
    items: Iterable[Sequence[int]],
) -> pa.RecordBatch:
    """Rows of retrieval or ranking; of `items`, catalog rows best first, the first 20 stay."""
    columns = [users, targets, history, ranks, [list(row[:NUM_ITEMS]) for row in items]]
    return _batch(columns, RANKED)


def rated(
    users: Sequence[str], targets: Any, history: Any, liked: Any, scores: Any
) -> pa.RecordBatch:
    """Rows of rating."""
    return _batch([users, targets, history, liked, scores], RATED)


def _batch(columns: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch(
        [pa.array(values, field.type) for values, field in zip(columns, schema)], schema=schema
    )


def write(
    path: str | os.PathLike, batches: Iterable[pa.RecordBatch], facts: Mapping[str, Any]
) -> None:
    """Writes rows, one batch in memory at a time; the file appears when it is whole.

    Args:
      path: see `path_of`; its folder is made.
      batches: one at least, all with the same columns.
      facts: JSON; what the rows belong to.

    Raises:
      UserError: there is no writing there.
    """
    batches = iter(batches)
    first = next(batches)
    schema = first.schema.with_metadata({_METADATA: json.dumps(facts, sort_keys=True)})
    try:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        with run_folder.whole_file(path, "wb") as f, pq.ParquetWriter(f, schema) as writer:
            for batch in (first, *batches):
                table = pa.Table.from_batches([batch]).replace_schema_metadata(schema.metadata)
                writer.write_table(table, row_group_size=_GROUP)
    except OSError as error:
        raise UserError(
            f"Rows for '{path}': got {error.strerror or error} on writing, expected a folder with "
            "room; make room, or choose another folder"
        ) from error


def facts(path: str | os.PathLike) -> dict[str, Any]:
    """What the rows of a file belong to, as `write` was told."""
    with _opened(path) as file:
        return json.loads((file.schema_arrow.metadata or {}).get(_METADATA, b"{}"))


def read(path: str | os.PathLike, schema: pa.Schema | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file, a batch in memory at a time; no value is null.

    Args:
      path: a file that may hold anything.
      schema: RANKED or RATED, which the file must have; None is whichever it has.

    Raises:
      UserError: there is no such file, or it is not one of ours.
    """
    with _opened(path) as file:
        if not 0 < file.metadata.num_rows <= MOST_ROWS:
            raise pa.ArrowInvalid(f"{file.metadata.num_rows} rows")
        there = file.schema_arrow.names
        wanted = schema or (RATED if "liked" in there else RANKED)
        missing = [name for name in wanted.names if name not in there]
        if missing:
            raise pa.ArrowInvalid(f"no column {', '.join(missing)}")
        for batch in file.iter_batches(batch_size=_GROUP, columns=wanted.names):
            yield _checked(batch.select(wanted.names).cast(wanted))


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    nulls = [name for name in batch.schema.names if batch.column(name).null_count]
    if "items" in batch.schema.names and batch.column("items").flatten().null_count:
        nulls.append("items")
    if nulls:
        raise pa.ArrowInvalid(f"empty values in {', '.join(nulls)}")
    return batch


def metrics(path: str | os.PathLike) -> dict[str, float]:
    """The metrics of a file, from its rows alone."""
    ranks, no_item, answers, liked, scores = [], 0, 0, [], []
    for batch in read(path):
        if "rank" in batch.schema.names:
            ranks.append(batch.column("rank").to_numpy())
            items = batch.column("items").flatten().to_numpy()
            no_item, answers = no_item + int((items < 0).sum()), answers + len(items)
        else:
            liked.append(batch.column("liked").to_numpy(zero_copy_only=False))
            scores.append(batch.column("score").to_numpy())
    if ranks:
        found = task_metrics.rank_metrics(np.concatenate(ranks))
        return {**found, "invalid": no_item / answers if answers else float("nan")}
    return {"auc": task_metrics.auc(np.concatenate(liked), np.concatenate(scores))}


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[pq.ParquetFile]:
    """The file; what is wrong with it, found in the block too, is a UserError."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"Rows for '{path}': got {reason}, expected a Parquet file with columns "
            f"{_told(RANKED)}, or {_told(RATED)}, as `recllm eval` or `recllm baselines` writes "
            "it; measure the run again, or take the file away"
        ) from error


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
