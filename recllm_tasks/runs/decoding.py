"""How an evaluation turns a model's probabilities into ranked answers."""

import dataclasses

from recllm_tasks.errors import UserError, check_number, check_switch, check_whole

# How candidates are ranked.
METHODS = ("beam", "score")

# In place of a prior's weight: the weight that is best on validation.
VALIDATION = "validation"


@dataclasses.dataclass(frozen=True)
class Decoding:
    """The settings of decoding, bound once in gin and recorded in results.

    Attributes:
      num_beams: width of the beam. Paper §4.1: 20.
      constrained: every beam is one of the task's answers (ours), or any text (the paper's).
      exclude_history: leave out items that the user already has (the paper keeps them).
      method: "beam" (paper §4.1), or "score", which ranks all candidates of an example by their
        exact log-probabilities; a task without candidates is searched with beams all the same.
      batch_size: examples decoded together; results do not depend on it.
      prior_weight: λ: items are ranked by log p(model) + λ log p(item-to-item); 0 is the model
        alone. "validation" chooses it, see engine/prior_choice.py. Answers that are not items have
        no prior.

    Raises:
      UserError: a value is out of range.
    """

    num_beams: int = 20
    constrained: bool = True
    exclude_history: bool = False
    method: str = "beam"
    batch_size: int = 32
    prior_weight: float | str = 0.0

    def __post_init__(self):
        check_whole("NUM_BEAMS", self.num_beams, 1)
        check_switch("CONSTRAINED", self.constrained)
        check_switch("EXCLUDE_HISTORY", self.exclude_history)
        if self.method not in METHODS:
            raise UserError(
                f"METHOD: got {self.method!r}, expected one of {', '.join(METHODS)}; correct it"
            )
        check_whole("BATCH_SIZE", self.batch_size, 1)
        if isinstance(self.prior_weight, str):
            if self.prior_weight != VALIDATION:
                raise UserError(
                    f"PRIOR_WEIGHT: got {self.prior_weight!r}, expected a number of at least 0 or "
                    f"'{VALIDATION}'; correct it"
                )
        else:
            check_number("PRIOR_WEIGHT", self.prior_weight, 0)
        if self.prior_weight and not self.constrained:
            raise UserError(
                f"PRIOR_WEIGHT: got {self.prior_weight!r} with CONSTRAINED=False, expected beams "
                "that are items, as text has no prior; leave one of them out"
            )

    @property
    def name(self) -> str:
        """A name for files and tables that tells decodings with different results apart."""
        parts = [f"beam{self.num_beams}"]
        if self.method == "score":
            parts.append("score")
        if not self.constrained:
            parts.append("unconstrained")
        if self.exclude_history:
            parts.append("new_items")
        if self.prior_weight:
            weight = self.prior_weight
            parts.append(f"prior{weight if isinstance(weight, str) else format(weight, '.12g')}")
        return "-".join(parts)
