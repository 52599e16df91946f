"""The prior's weight that is best on validation, remembered beside the run in prior.json.

Our choice: every weight of a grid is decoded in full. The beams of one search, ranked again with
other weights, would lack the items that only the prior brings up.
"""

import dataclasses
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio

from recllm_tasks import progress, tasks
from recllm_tasks.engine.beam_cache import digest_of
from recllm_tasks.engine.saved_run import SavedRun
from recllm_tasks.errors import UserError
from recllm_tasks.files import from_object, read_json, write_json
from recllm_tasks.prompts.templates import Choice
from recllm_tasks.runs.decoding import VALIDATION, Decoding

FILE = "prior.json"

GRID = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)

# Paper §4.1 validates on retrieval; training chooses checkpoints by the same metric.
METRIC = "ndcg@10"


@dataclasses.dataclass(frozen=True)
class PriorChoice:
    """What was measured on validation, for one checkpoint and one way of decoding.

    Attributes:
      checkpoint: digest of the parameters.
      step: of the checkpoint.
      task: that was measured.
      decoding: the settings of decoding that change results, without the weight.
      metric: that was measured.
      measured: its value by weight.
    """

    checkpoint: str
    step: int
    task: str
    decoding: Mapping[str, Any]
    metric: str = METRIC
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def missing(self) -> list[float]:
        """Weights of the grid that are still to be measured."""
        return [weight for weight in GRID if str(weight) not in self.measured]

    @property
    def weight(self) -> float:
        """The best weight of the grid; of equal ones the smallest."""
        return max(GRID, key=lambda weight: self.measured[str(weight)])

    def is_for(self, other: "PriorChoice") -> bool:
        return dataclasses.replace(self, measured=other.measured) == other


def begin(saved: SavedRun, task: str, decoding: Decoding) -> PriorChoice:
    """A choice in which nothing is measured yet."""
    settings = dataclasses.asdict(decoding)
    for name in ("prior_weight", "batch_size"):
        del settings[name]
    return PriorChoice(digest_of(saved.params), saved.step, task, settings)


def choose(model_dir: str, choice: PriorChoice, measure: Callable[[float], float]) -> PriorChoice:
    """The choice with all of the grid measured, as the run's folder remembers it.

    Choices for other checkpoints are forgotten. What a killed process measured is kept.

    Args:
      model_dir: the run's folder.
      choice: from `begin`.
      measure: the metric of a weight on validation.
    """
    known = _load(model_dir)
    others = [
        one for one in known if one.checkpoint == choice.checkpoint and not one.is_for(choice)
    ]
    choice = next((one for one in known if one.is_for(choice)), choice)
    for weight in choice.missing:
        measured = {**choice.measured, str(weight): measure(weight)}
        choice = dataclasses.replace(choice, measured=measured)
        content = [dataclasses.asdict(one) for one in (*others, choice)]
        write_json(pathlib.Path(model_dir) / FILE, {"choices": content})
        progress.console.print(
            f"prior weight {weight:g}: validation {METRIC} {measured[str(weight)]:.4f}"
        )
    end = {GRID[0]: ", the smallest tried", GRID[-1]: ", the largest tried"}
    progress.console.print(
        f"prior weight {choice.weight:g}, chosen on validation ({choice.task}, {METRIC} "
        f"{choice.measured[str(choice.weight)]:.4f})" + end.get(choice.weight, "")
    )
    return choice


def remembered(model_dir: str, saved: SavedRun, task: str, decoding: Decoding) -> Decoding:
    """The decoding with the weight that an evaluation has chosen, where it asks for that.

    Raises:
      UserError: none was chosen for this checkpoint and decoding.
    """
    if decoding.prior_weight != VALIDATION:
        return decoding
    wanted = begin(saved, task, decoding)
    for one in _load(model_dir):
        if one.is_for(wanted) and not one.missing:
            return dataclasses.replace(decoding, prior_weight=one.weight)
    raise UserError(
        f"Prior's weight for '{model_dir}': got none chosen for step {saved.step} of '{task}' with "
        f"{decoding.name}, expected one in {FILE}; run `recllm eval {shlex.quote(str(model_dir))} "
        f"--gin.PRIOR_WEIGHT={VALIDATION}` with the same settings, or give a number"
    )


def task_to_choose_on(to_measure: Sequence[seqio.Task]) -> str:
    """The first task that ranks the whole catalog; without one, the first that ranks items.

    Raises:
      UserError: there is none.
    """
    ranking, whole = [], []
    for task in to_measure:
        prompt = tasks.prompt_of(task)
        if prompt is None:
            continue
        slot = prompt.template.answer
        if slot is None or isinstance(slot, Choice) or "validation" not in task.splits:
            continue
        if task.metric_objs:
            ranking.append(task.name)
            whole += [] if prompt.template.offers_candidates else [task.name]
    found = [*whole, *ranking]
    if not found:
        raise UserError(
            f"PRIOR_WEIGHT: got {VALIDATION!r} for {', '.join(task.name for task in to_measure)}, "
            "expected a task that ranks items and has a validation split, such as retrieval; name "
            "one, or give a number"
        )
    return found[0]


def _load(model_dir: str) -> list[PriorChoice]:
    path = pathlib.Path(model_dir) / FILE
    content = read_json(path)
    if content is None:
        return []
    try:
        found = [from_object(PriorChoice, one) for one in content["choices"]]
        for one in found:
            if not all(isinstance(value, float) for value in one.measured.values()):
                raise ValueError(f"{one.measured} as measured")
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"Damaged file '{path}': got {error}, expected what `recllm eval` wrote; delete it"
        ) from error
