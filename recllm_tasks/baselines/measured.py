"""What a row measured, and its run's folder `OUT/<row>`, which looks like an evaluated model's."""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recllm_tasks import __version__, metrics, progress
from recllm_tasks.baselines import evaluation
from recllm_tasks.baselines.interactions import SplitInteractions, Splits
from recllm_tasks.baselines.rows import Row
from recllm_tasks.data.dataset_info import DatasetInfo
from recllm_tasks.files import read_json
from recllm_tasks.runs import memory, per_user, results
from recllm_tasks.runs.results import Results

# How ranks are counted, so that a row that was ranked in another way is measured again.
RANKS = "among different items"

# Users of a batch of per-user results.
_BATCH = 1 << 14


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one row, by kind of task.

    Attributes:
      ranked: of retrieval and ranking.
      scores: of rating, float64 [U], higher is more liked.
      seconds: of ranking or scoring, without fitting.
      fit_seconds: of fitting.
      settings: JSON; the settings of the model, and those it chose.
      parameters: number of fitted numbers.
      peak_memory_bytes: of the process that fitted it; None is this one.
    """

    ranked: Mapping[str, evaluation.Ranked]
    scores: Mapping[str, npt.NDArray[np.float64]]
    seconds: Mapping[str, float]
    fit_seconds: float
    settings: Mapping[str, Any]
    parameters: int
    peak_memory_bytes: int | None = None

    @property
    def kinds(self) -> list[str]:
        return [*self.ranked, *self.scores]

    def metrics(self, kind: str, interactions: SplitInteractions) -> dict[str, float]:
        if kind in self.ranked:
            return metrics.rank_metrics(self.ranked[kind].ranks)
        return {"auc": metrics.auc(interactions.targets_liked(), self.scores[kind])}

    def rows(
        self, kind: str, interactions: SplitInteractions, groups: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """Batches of per-user results; `groups` are those of the users."""
        history = np.array([len(items) for items in interactions.history_items], np.int32)
        liked = interactions.targets_liked()
        for start in range(0, len(interactions.targets), _BATCH):
            part = slice(start, start + _BATCH)
            users = (interactions.users[part], interactions.targets[part], history[part])
            if kind in self.ranked:
                ranked = self.ranked[kind]
                yield per_user.ranked(*users, ranked.ranks[part], ranked.lists[part], groups[part])
            else:
                yield per_user.rated(*users, liked[part], self.scores[kind][part], groups[part])


def measure_lists(
    name: str,
    score_block: evaluation.ScoreBlock,
    interactions: SplitInteractions,
    kinds: Sequence[str],
    exclude_seen: bool,
) -> tuple[dict[str, evaluation.Ranked], dict[str, float]]:
    """Retrieval and ranking, and the seconds of each."""
    ranked, seconds = {}, {}
    for kind in kinds:
        start = time.monotonic()
        with progress.work(f"{name} {kind}", len(interactions.targets)) as work:

            def counted(block: slice, work=work) -> npt.NDArray[np.floating]:
                scores_BxN = score_block(block)
                work.advance(len(scores_BxN))
                return scores_BxN

            if kind == "retrieval":
                ranked[kind] = evaluation.rank_items(counted, interactions, exclude_seen)
            else:
                ranked[kind] = evaluation.rank_candidates(counted, interactions)
        seconds[kind] = time.monotonic() - start
    return ranked, seconds


def fingerprint(
    row: Row, info: DatasetInfo, split: str, settings: Mapping[str, Any], seen: str
) -> str:
    """SHA-256 (hex) of everything that a row's results depend on."""
    facts = [__version__, row.name, row.kinds, info.fingerprint, split, settings, seen, RANKS]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def finished(folder: pathlib.Path, split: str, row_fingerprint: str) -> Results | None:
    """The results of a complete row with that fingerprint, or None."""
    path = folder / results.FOLDER / f"{split}.json"
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("row_fingerprint") != row_fingerprint:
        return None
    found = results.read(path)
    complete = all((folder / found.per_user.get(task, "-")).is_file() for task in found.metrics)
    return found if complete else None


def save(
    folder: pathlib.Path,
    row: Row,
    row_fingerprint: str,
    info: DatasetInfo,
    splits: Splits,
    measured: Measured,
    seen: str,
) -> Results:
    """Writes per-user results, then the results computed from them."""
    facts: dict[str, Any] = {
        "dataset": info.dataset,
        "fingerprint": info.fingerprint,
        "split_fingerprint": info.split_fingerprint,
        "ids": info.ids,
        "protocol": info.protocol,
        "seen": seen,
        "model": row.name,
        "split": splits.split,
        "row_fingerprint": row_fingerprint,
    }
    task_of = {kind: f"{info.dataset}_{kind}" for kind in measured.kinds}
    files = {task: per_user.path_of(folder, splits.split, task) for task in task_of.values()}
    names = {task: str(path.relative_to(folder)) for task, path in files.items()}
    for kind, task in task_of.items():
        rows = measured.rows(kind, splits.of(kind), splits.groups(kind))
        per_user.write(files[task], rows, {**facts, "task": task})
    found = Results(
        **facts,
        title=row.title,
        version=__version__,
        step=0,
        seed=measured.settings.get("seed", 0),
        records_digest=info.records_digest,
        ties=info.ties,
        settings=measured.settings,
        parameters=int(measured.parameters),
        num_examples={task: len(splits.of(kind).targets) for kind, task in task_of.items()},
        metrics={task: per_user.metrics(path) for task, path in files.items()},
        by_target=results.by_target(folder, names),
        per_user=names,
        fit_seconds=measured.fit_seconds,
        decode_seconds={task: measured.seconds[kind] for kind, task in task_of.items()},
        peak_memory_bytes=measured.peak_memory_bytes or memory.peak_bytes(),
        seconds=measured.fit_seconds + sum(measured.seconds.values()),
    )
    found.save(folder)
    return found
