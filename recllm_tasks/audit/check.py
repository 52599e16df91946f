"""The result of a check: whether it passed, its figures, and the first record that fails it."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Offender:
    """The first record that fails a check.

    Attributes:
      problem: what is wrong with it.
      value: the wrong item, as a short id, or the wrong number.
      user: raw id; None if the record belongs to no user.
      split: train, validation or test; None for the catalog.
      position: position in the user's sequence, from 0, or row of the catalog.
    """

    problem: str
    value: str
    user: str | None = None
    split: str | None = None
    position: int | None = None

    def __str__(self) -> str:
        where = [
            f"{name} {value!r}" if name == "user" else f"{name} {value}"
            for name, value in (
                ("user", self.user),
                ("split", self.split),
                ("position", self.position),
            )
            if value is not None
        ]
        return f"{', '.join([*where, f'value {self.value}'])}: {self.problem}"


@dataclasses.dataclass(frozen=True)
class Check:
    """The result of one check over the whole dataset.

    Attributes:
      name: for programs.
      claim: what is true if it passes.
      figures: counts and measurements, by name.
      offender: the first record that fails it, or None.
    """

    name: str
    claim: str
    figures: Mapping[str, Any]
    offender: Offender | None = None

    @property
    def passed(self) -> bool:
        return self.offender is None

    def to_json(self) -> dict[str, Any]:
        """A dict that `json` can write."""
        return {"passed": self.passed, **dataclasses.asdict(self)}
