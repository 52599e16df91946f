"""How an evaluation turns a model's probabilities into ranked answers."""

import dataclasses
from typing import Self

from recllm_tasks.errors import UserError, check_number, check_switch, check_text, check_whole

# How candidates are ranked.
METHODS = ("beam", "score")
# What becomes of items that the user already has, in lists made of the whole catalog.
LEAVE_OUT, KEEP = SEEN = ("leave_out", "keep")


def seen_rule(asked: str | None, keeps_repeats: bool, name: str = "SEEN") -> str:
    """The rule for seen items, LEAVE_OUT or KEEP, the same for every row of a table.

    Our choice: without a word from the user, lists leave out seen items where a dataset keeps no
    repeats, because no target is one; the paper keeps them. Where it keeps repeats, a seen item may
    be the target, so lists hold them. The rule is about lists made of the whole catalog
    (retrieval). Ranking orders the candidates that it is given, and rating has no list.

    Args:
      asked: one of SEEN; None is the dataset's default.
      keeps_repeats: see `DatasetInfo.keeps_repeats`.
      name: of the setting, for errors.

    Raises:
      UserError: `asked` is no rule.
    """
    if asked is not None and asked not in SEEN:
        raise UserError(
            f"{name}: got {asked!r}, expected {' or '.join(SEEN)}, or nothing for the dataset's "
            "default; correct it"
        )
    return asked or (KEEP if keeps_repeats else LEAVE_OUT)


# In place of a prior's weight: the weight that is best on validation.
VALIDATION = "validation"


@dataclasses.dataclass(frozen=True)
class Decoding:
    """The settings of decoding, bound once in gin and recorded in results.

    Attributes:
      num_beams: width of the beam. Paper §4.1: 20.
      constrained: every beam is one of the task's answers (ours), or any text (the paper's).
      seen: LEAVE_OUT or KEEP items that the user already has, see `seen_rule`; None is the
        dataset's default, which `resolved` puts in. Free text cannot leave them out.
      method: "beam" (paper §4.1), or "score", which ranks all candidates of an example by their
        exact log-probabilities; a task without candidates is searched with beams all the same.
      batch_size: examples decoded together; results do not depend on it.
      prior_weight: λ: items are ranked by log p(model) + λ log p(item-to-item); 0 is the model
        alone. "validation" chooses it, see engine/prior_choice.py. Answers that are not items have
        no prior.
      allow, deny: files with an item's id a line: lists made of the whole catalog hold only items
        of the first (None is all), and none of the second. For recommendations; metrics are of the
        whole catalog.

    Raises:
      UserError: a value is out of range.
    """

    num_beams: int = 20
    constrained: bool = True
    seen: str | None = None
    method: str = "beam"
    batch_size: int = 32
    prior_weight: float | str = 0.0
    allow: str | None = None
    deny: str | None = None

    def __post_init__(self):
        check_whole("NUM_BEAMS", self.num_beams, 1)
        check_switch("CONSTRAINED", self.constrained)
        if self.seen is not None:
            seen_rule(self.seen, keeps_repeats=False)
        if self.seen == LEAVE_OUT and not self.constrained:
            raise UserError(
                f"SEEN: got {self.seen!r} with CONSTRAINED=False, expected {KEEP!r}, because free "
                "text may name any item; correct it, or leave out CONSTRAINED"
            )
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

        for name, path in (("ALLOW", self.allow), ("DENY", self.deny)):
            if path is None:
                continue
            check_text(name, path)
            if not self.constrained:
                raise UserError(
                    f"{name}: got {path!r} with CONSTRAINED=False, expected beams that are items, "
                    "as free text may name any; leave one of them out"
                )

    def check_unrestricted(self) -> None:
        """Raises UserError for lists of items, where results are measured."""
        for name, path in (("ALLOW", self.allow), ("DENY", self.deny)):
            if path is not None:
                raise UserError(
                    f"{name}: got {path!r}, expected none, because metrics are of the whole "
                    "catalog; leave it out, or use `recllm recommend` or `recllm infer`"
                )

    def resolved(self, keeps_repeats: bool) -> Self:
        """With the rule for seen items in place of None: `seen_rule`; free text keeps them."""
        if self.seen is None and not self.constrained:
            return dataclasses.replace(self, seen=KEEP)
        return dataclasses.replace(self, seen=seen_rule(self.seen, keeps_repeats))

    @property
    def name(self) -> str:
        """A name for files and tables that tells decodings with different results apart.

        Raises:
          ValueError: the rule for seen items is not resolved.
        """
        if self.seen is None:
            raise ValueError("seen for 'Decoding.name': got None, expected a resolved rule")
        parts = [f"beam{self.num_beams}"]
        if self.method == "score":
            parts.append("score")
        if not self.constrained:
            parts.append("unconstrained")
        if self.seen == LEAVE_OUT:
            parts.append("new_items")
        if self.prior_weight:
            weight = self.prior_weight
            parts.append(f"prior{weight if isinstance(weight, str) else format(weight, '.12g')}")
        return "-".join(parts)
