"""A table before rendering; HTML, Markdown and CSV show the same cells."""

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Cell:
    """Texts of one cell, plain; renderers escape them.

    Attributes:
      text: the value; "" leaves the cell empty.
      interval: beside it, smaller.
      paper: the paper's number, as printed.
      mark: a sign after the text, such as ▲.
      p: the adjusted p value, for CSV.
      strong: whether it is the best of its column.
    """

    text: str = ""
    interval: tuple[str, str] | None = None
    paper: str = ""
    mark: str = ""
    p: str = ""
    strong: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A row; consecutive rows of the same `part` form a group."""

    name: str
    cells: Sequence[Cell]
    part: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns in groups: `groups` are (title, number of columns); () where there are none."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    groups: Sequence[tuple[str, int]] = ()
    notes: Sequence[str] = ()

    def group_of(self, column: int) -> str:
        for title, width in self.groups:
            if column < width:
                return title
            column -= width
        return ""


def fraction(value: float | None) -> str:
    """Four digits, as the paper prints NDCG and HR; "" for a missing value."""
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def percent(value: float | None, digits: int = 2) -> str:
    """Per cent, as the paper prints AUC."""
    return "" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def signed(text: str) -> str:
    """A number's text with its sign; zero has none."""
    return f"+{text}" if text and float(text) > 0 else text


def count(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:,.0f}"


def significant(value: float | None) -> str:
    """Three significant digits, without an exponent if possible."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def p_value(value: float) -> str:
    if math.isnan(value):
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"
