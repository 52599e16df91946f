"""Per-user results, from which all metrics of an evaluation can be recomputed.

MODEL_DIR/per_user/<evaluation>/<task>.parquet has one row for each example, in the order of
evaluation. `<evaluation>` is `Results.name`.

    user     string  as in the raw log
    target   int32   catalog row
    history  int32   number of items that the user had before the target
    retrieval and ranking                          rating
    rank     float64 of the target, 1 is best,     liked  bool    whether the target was liked
                     inf a miss                    score  float64 higher is more liked
    items    list<int32> the first 20 answers,
                     best first; -1 is no item, duplicates are kept
    group    string  one of GROUPS (data/co_occurrence.py): what the history can tell of the target;
                     "" is unknown, as in files of older versions

`metrics` of a file equal those in results.json; `invalid` only if the beam is at most 20 wide.
The file's metadata, under `recllm`, say what it belongs to (JSON).
"""

import collections
import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recllm_tasks import checksums
from recllm_tasks import metrics as task_metrics
from recllm_tasks.data.co_occurrence import GROUPS
from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write

FOLDER = "per_user"
NUM_ITEMS = 20

_USERS = [("user", pa.string()), ("target", pa.int32()), ("history", pa.int32())]
_GROUPED = ("group", pa.string())
RANKED = pa.schema([*_USERS, ("rank", pa.float64()), ("items", pa.list_(pa.int32())), _GROUPED])
RATED = pa.schema([*_USERS, ("liked", pa.bool_()), ("score", pa.float64()), _GROUPED])

# Rows of a group, which a reader holds in memory at once.
_GROUP = 1 << 16
MAX_ROWS = 50_000_000
_METADATA = b"recllm"


def path_of(model_dir: str | os.PathLike, evaluation: str, task: str) -> pathlib.Path:
    """Path of a task's rows, which need not exist."""
    return pathlib.Path(model_dir) / FOLDER / evaluation / f"{task}.parquet"


def ranked(
    users: Sequence[str],
    targets: Any,
    history: Any,
    ranks: Any,
    items: Iterable[Sequence[int] | np.ndarray],
    groups: Sequence[str] | None = None,
) -> pa.RecordBatch:
    """Rows of retrieval or ranking; keeps the first 20 `items`, catalog rows best first."""
    columns = [users, targets, history, ranks, [list(row[:NUM_ITEMS]) for row in items]]
    return _batch([*columns, groups or [""] * len(users)], RANKED)


def rated(
    users: Sequence[str],
    targets: Any,
    history: Any,
    liked: Any,
    scores: Any,
    groups: Sequence[str] | None = None,
) -> pa.RecordBatch:
    """Rows of rating."""
    return _batch([users, targets, history, liked, scores, groups or [""] * len(users)], RATED)


def _batch(columns: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch(
        [pa.array(values, field.type) for values, field in zip(columns, schema)], schema=schema
    )


def write(
    path: str | os.PathLike, batches: Iterable[pa.RecordBatch], facts: Mapping[str, Any]
) -> None:
    """Writes rows atomically, with one batch in memory at a time.

    Args:
      path: see `path_of`; its folder is created.
      batches: at least one, all with the same columns.
      facts: JSON; what the rows belong to.

    Raises:
      UserError: the file cannot be written.
    """
    batches = iter(batches)
    first = next(batches)
    schema = first.schema.with_metadata({_METADATA: json.dumps(facts, sort_keys=True)})
    try:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        # `Results.save` writes them once the evaluation is complete.
        checksums.remove(pathlib.Path(path).parent)
        with atomic_write(path, "wb") as f, pq.ParquetWriter(f, schema) as writer:
            for batch in (first, *batches):
                table = pa.Table.from_batches([batch]).replace_schema_metadata(schema.metadata)
                writer.write_table(table, row_group_size=_GROUP)
    except OSError as error:
        raise UserError(
            f"Per-user results for '{path}': got {error.strerror or error} on writing, expected a "
            "writable folder with free space; free some, or choose another folder"
        ) from error


def facts(path: str | os.PathLike) -> dict[str, Any]:
    """What the rows of a file belong to, as `write` recorded it."""
    with _opened(path) as file:
        return json.loads((file.schema_arrow.metadata or {}).get(_METADATA, b"{}"))


def read(path: str | os.PathLike, schema: pa.Schema | None = None) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file, with one batch in memory at a time; no value is null.

    Args:
      path: an untrusted file.
      schema: RANKED or RATED, which the file must have; None accepts either.

    Raises:
      UserError: the file does not exist, is damaged, or is not a file of per-user results.
    """
    path = pathlib.Path(path)
    checksums.check(path.parent, "measure the run again, or delete the file", [path.name])
    with _opened(path) as file:
        if not 0 < file.metadata.num_rows <= MAX_ROWS:
            raise pa.ArrowInvalid(f"{file.metadata.num_rows} rows")
        names = file.schema_arrow.names
        wanted = schema or (RATED if "liked" in names else RANKED)
        stored = [name for name in wanted.names if name in names]
        missing = [name for name in wanted.names if name not in {*names, "group"}]
        if missing:
            raise pa.ArrowInvalid(f"no column {', '.join(missing)}")
        for batch in file.iter_batches(batch_size=_GROUP, columns=stored):
            if "group" not in stored:
                unknown = pa.repeat("", len(batch))
                batch = batch.append_column("group", unknown)
            yield _checked(batch.select(wanted.names).cast(wanted))


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    nulls = [name for name in batch.schema.names if batch.column(name).null_count]
    if "items" in batch.schema.names and batch.column("items").flatten().null_count:
        nulls.append("items")
    if nulls:
        raise pa.ArrowInvalid(f"empty values in {', '.join(nulls)}")
    return batch


def metrics(path: str | os.PathLike, group: str | None = None) -> dict[str, float]:
    """The metrics of a file, computed from its rows.

    Args:
      path: as `path_of` names it.
      group: whose rows count; None is all.
    """
    ranks, no_item, answers, liked, scores = [], 0, 0, [], []
    for batch in read(path):
        if group is not None:
            is_its = [name == group for name in batch.column("group").to_pylist()]
            batch = batch.filter(pa.array(is_its, pa.bool_()))
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


def metrics_by_group(path: str | os.PathLike) -> dict[str, dict[str, float]]:
    """The metrics of a file by group, each with `users`, their number; {} if no group is known.

    A metric that is not defined, such as the AUC of one class, is left out.
    """
    users = collections.Counter()
    for batch in read(path):
        users.update(batch.column("group").to_pylist())
    found: dict[str, dict[str, float]] = {}
    for name in GROUPS if users.keys() & set(GROUPS) else ():
        values = metrics(path, name) if users[name] else {}
        defined = {key: value for key, value in values.items() if not math.isnan(value)}
        found[name] = {"users": users[name], **defined}
    return found


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[pq.ParquetFile]:
    """Opens a file; reading errors within the block become UserErrors."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"Per-user results for '{path}': got {reason}, expected a Parquet file with columns "
            f"{_columns(RANKED)}, or {_columns(RATED)}, as `recllm eval` and `recllm baselines` "
            "write it; measure the run again, or delete the file"
        ) from error


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
