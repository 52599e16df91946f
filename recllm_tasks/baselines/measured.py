"""What a row found, before it becomes a run's folder."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recllm_tasks import progress
from recllm_tasks.baselines import evaluation
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.engine import per_user

# Rows made at once.
_ROWS = 1 << 14


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one row, by kind of task.

    Attributes:
      ranked: of retrieval and ranking.
      scores: of rating, float64 [U], higher is more liked.
      seconds: that finding it took, once the model was there.
      fit_seconds: that the model took.
      settings: JSON; all that the model was made with, and what was chosen.
      parameters: numbers that were fitted.
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


def measure_lists(
    score_block: evaluation.ScoreBlock,
    interactions: SplitInteractions,
    kinds: tuple[str, ...],
    exclude_seen: bool,
) -> tuple[dict[str, evaluation.Ranked], dict[str, float]]:
    """Retrieval and ranking, and the seconds of each."""
    ranked, seconds = {}, {}
    for kind in kinds:
        start = time.monotonic()
        with progress.work(f"  {kind}", len(interactions.targets)) as work:

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


def user_rows(measured: Measured, kind: str, interactions: SplitInteractions):
    """Batches of the rows of `per_user`."""
    history = np.array([len(items) for items in interactions.history_items], np.int32)
    for start in range(0, len(interactions.targets), _ROWS):
        part = slice(start, start + _ROWS)
        users = (interactions.users[part], interactions.targets[part], history[part])
        yield _batch(measured, kind, interactions, part, users)


def _batch(measured, kind, interactions, part, users) -> pa.RecordBatch:
    if kind in measured.ranked:
        ranked = measured.ranked[kind]
        return per_user.ranked(*users, ranked.ranks[part], ranked.lists[part])
    liked = interactions.target_ratings[part] > interactions.like_threshold
    return per_user.rated(*users, liked, measured.scores[kind][part])
