"""Every digit of the paper's numbers, against the paper's text."""

import os
import pathlib
import re

import pytest

from recllm_tasks.report.paper_results import (
    CONVENTIONAL,
    DELTA,
    LANGUAGE_MODELS,
    OURS,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_9,
)

NUMBER = r"[-+]?\d+(?:\.\d+|e-\d)"


@pytest.fixture(scope="module")
def paper() -> list[str]:
    default = pathlib.Path(__file__).parents[2].parent / "shared"
    text = pathlib.Path(os.environ.get("RECLLM_SHARED", default)) / "paper.txt"
    if not text.is_file():
        pytest.skip(f"needs the paper's text in {text} (set RECLLM_SHARED)")
    lines = text.read_text(encoding="utf-8").replace("−", "-").splitlines()
    # The reader knows "[Ours]" and the marks of footnotes 1 and 2 from the table's legend.
    lines = [line.strip().replace("[Ours] ", "").replace("∆ (%)", DELTA) for line in lines]
    return [re.sub(rf"^(\S*[a-zA-Z5])[12] (?={NUMBER})", r"\1 ", line) for line in lines]


def rows_of(lines: list[str], start: str, end: str, num: int) -> dict[str, list[str]]:
    """Rows of `num` numbers, by name, between the lines that begin with `start` and `end`."""
    first = next(place for place, line in enumerate(lines) if line.startswith(start))
    last = next(place for place, line in enumerate(lines) if line.startswith(end))
    found = {}
    for line in lines[first:last]:
        row = re.fullmatch(rf"(.+?)((?: {NUMBER}){{{num}}})", line)
        if row:
            found[row[1]] = row[2].split()
    return found


@pytest.mark.parametrize(
    ("table", "start", "end", "num_rows"),
    [
        (TABLE_1, "Evaluation Metrics.", "Table 1:", 16),
        (TABLE_2, "Table 1:", "Table 2:", 10),
        (TABLE_3, "Table 2:", "Table 3:", 10),
        (TABLE_4, "4.3 Ablation", "Table 4:", 9),
        (TABLE_5, "Table 4:", "Table 5:", 11),
        (TABLE_6, "# Methods AUC-ROC", "Table 6:", 9),
        (TABLE_9, "Table 8:", "Table 9:", 2),
    ],
)
def test_the_numbers_are_the_papers(paper, table, start, end, num_rows):
    printed = rows_of(paper, start, end, len(table.metrics) * len(table.numbers))
    assert len(printed) == num_rows
    ours = {
        row: [
            table.printed(dataset, row, key) for dataset in table.numbers for key in table.metrics
        ]
        for row in next(iter(table.numbers.values()))
    }
    assert list(ours) == list(printed)
    assert ours == printed


def test_every_row_has_a_part_and_a_row_that_is_not_there_has_no_number():
    for table in (TABLE_1, TABLE_2, TABLE_3):
        for rows in table.numbers.values():
            assert set(rows) <= {*CONVENTIONAL, *LANGUAGE_MODELS, *OURS, DELTA}
    assert TABLE_1.printed("toys", "ReAT", "hr@10") == "0.0776"
    assert TABLE_1.printed("movielens_100k", "ReAT", "hr@10") == ""
    assert TABLE_1.printed("toys", "EASE", "hr@10") == ""
