"""Estimates for every run of a condition: values, intervals, differences, p values.

Letters: U users, B replicates, R runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from recllm_tasks.errors import UserError
from recllm_tasks.report import methods, paper_results, significance, user_results
from recllm_tasks.report.bootstrap import Resampling, interval
from recllm_tasks.report.conditions import Condition
from recllm_tasks.report.runs import Run
from recllm_tasks.report.user_results import RankedUsers, RatedUsers

# The metric of differences and breakdowns, by kind.
MAIN_METRIC = {"retrieval": "ndcg@10", "ranking": "ndcg@10", "rating": "auc"}


@dataclasses.dataclass(frozen=True)
class Difference:
    """A row less the best baseline: the difference, its interval, and p after Holm."""

    baseline: str
    value: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference shown`."""
        if not self.p < significance.ALPHA:
            return "no difference shown"
        return "better" if self.value > 0 else "worse"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric of a run; without per-user results `low` and `high` are NaN.

    `difference` is None for the best baseline itself, and where it cannot be computed.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    difference: Difference | None = None
    best_baseline: bool = False


@dataclasses.dataclass(eq=False)
class Measured:
    """One condition of one kind of task: runs, per-user results and estimates.

    Attributes:
      users: per-user results by the run's place, where there are some.
      estimates: by the run's place and metric.
    """

    kind: str
    condition: Condition
    runs: Sequence[Run]
    labels: Sequence[str]
    users: Mapping[int, RankedUsers | RatedUsers]
    estimates: Mapping[int, Mapping[str, Estimate]]
    resampling: Resampling

    def metric(self, place: int, key: str) -> float | None:
        run = self.runs[place]
        return run.metrics[run.tasks[self.kind]].get(key)


def metrics_of(kind: str, runs: Sequence[Run]) -> tuple[str, ...]:
    """The columns of a table: the paper's, or all metrics of a custom task."""
    if kind in paper_results.RESULTS:
        return paper_results.RESULTS[kind].metrics
    return tuple(dict.fromkeys(key for run in runs for key in run.metrics[run.tasks[kind]]))


def measure(kind: str, condition: Condition, runs: Sequence[Run]) -> Measured:
    """Reads per-user results and computes everything that tables show."""
    users = _users(kind, runs)
    _check_same_users(runs, kind, users)
    resampling = Resampling(len(next(iter(users.values()), ())))
    measured = Measured(kind, condition, runs, _labels(kind, runs), users, {}, resampling)
    keys = metrics_of(kind, runs)
    replicates = {place: _replicates(found, keys, resampling) for place, found in users.items()}
    estimates: dict[int, dict[str, Estimate]] = {place: {} for place in range(len(runs))}
    for key in keys:
        for place, estimate in _of_metric(measured, key, replicates).items():
            estimates[place][key] = estimate
    measured.estimates = estimates
    return measured


def _labels(kind: str, runs: Sequence[Run]) -> list[str]:
    """The label of each run; equal ones get the name of their folder."""
    labels = [methods.label(run, kind) for run in runs]
    return [
        f"{label} [{run.name}]" if labels.count(label) > 1 else label
        for label, run in zip(labels, runs)
    ]


def _users(kind: str, runs: Sequence[Run]) -> dict[int, RankedUsers | RatedUsers]:
    found = {}
    for place, run in enumerate(runs):
        task = run.tasks[kind]
        path = run.per_user_file(task)
        if kind in MAIN_METRIC and path is not None:
            found[place] = user_results.load(path, kind, run.metrics[task])
            if run.num_examples.get(task, len(found[place])) != len(found[place]):
                raise UserError(
                    f"'num_examples.{task}' in '{run.path}': got {run.num_examples[task]}, "
                    f"expected {len(found[place])}, the users in '{path}'; measure the run again"
                )
    return found


def _check_same_users(
    runs: Sequence[Run], kind: str, users: Mapping[int, RankedUsers | RatedUsers]
) -> None:
    """Raises UserError unless all runs have the same users, targets and known groups."""
    places = list(users)
    for place in places[1:]:
        first, other = users[places[0]], users[place]
        for column, same in (
            ("user", first.users.equals(other.users)),
            ("target", len(first) == len(other) and (first.targets == other.targets).all()),
            ("group", len(first) == len(other) and _same_groups(first.groups, other.groups)),
        ):
            if not same:
                paths = [runs[p].per_user_file(runs[p].tasks[kind]) for p in (place, places[0])]
                raise UserError(
                    f"'{column}' in '{paths[0]}': got other values than in '{paths[1]}', expected "
                    "the same, as both belong to one dataset, fingerprint and split; measure "
                    "both again"
                )


def _same_groups(one_U: np.ndarray, other_U: np.ndarray) -> bool:
    """Whether groups are the same where both are known."""
    return bool(((one_U == other_U) | (one_U < 0) | (other_U < 0)).all())


def _replicates(
    found: RankedUsers | RatedUsers, keys: Sequence[str], resampling: Resampling
) -> dict[str, npt.NDArray[np.float64]]:
    """Resampled values [B] by metric."""
    if isinstance(found, RatedUsers):
        return {"auc": resampling.aucs(found.liked, found.scores)}
    values = {key: found.values(key) for key in keys}
    values = {key: value for key, value in values.items() if value is not None}
    means = resampling.means(np.stack(list(values.values()), axis=1))
    return dict(zip(values, means.T))


def _of_metric(
    measured: Measured, key: str, replicates: Mapping[int, Mapping]
) -> dict[int, Estimate]:
    values = {place: measured.metric(place, key) for place in range(len(measured.runs))}
    values = {place: value for place, value in values.items() if value is not None}
    baselines = [p for p in values if methods.is_baseline(measured.runs[p], measured.kind)]
    best = max(baselines, key=lambda place: values[place], default=None)
    differences = {} if best is None else _differences(measured, key, values, replicates, best)
    found = {}
    for place, value in values.items():
        resampled = replicates.get(place, {}).get(key)
        bounds = (float("nan"), float("nan")) if resampled is None else interval(resampled)
        found[place] = Estimate(value, *bounds, differences.get(place), place == best)
    return found


def _differences(
    measured: Measured,
    key: str,
    values: Mapping[int, float],
    replicates: Mapping[int, Mapping],
    best: int,
) -> dict[int, Difference]:
    """The difference of each resampled run from the best baseline, if that is resampled too."""
    if key not in replicates.get(best, {}):
        return {}
    places = [place for place in values if place != best and key in replicates.get(place, {})]
    differences = [replicates[place][key] - replicates[best][key] for place in places]
    raw = [_p(measured, key, place, best, of) for place, of in zip(places, differences)]
    return {
        place: Difference(measured.labels[best], values[place] - values[best], *interval(of), p)
        for place, of, p in zip(places, differences, significance.holm(raw))
    }


def _p(measured: Measured, key: str, place: int, best: int, differences_B: np.ndarray) -> float:
    """Sign-flip permutation of the users' differences; paired bootstrap for AUC."""
    one, other = measured.users[place], measured.users[best]
    if isinstance(one, RankedUsers) and isinstance(other, RankedUsers):
        mine, theirs = one.values(key), other.values(key)
        if mine is not None and theirs is not None:
            return significance.sign_flip(mine - theirs)
    return significance.bootstrap_p(differences_B)
