"""A report before rendering: sections of tables and figures."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from recllm_tasks.report import (
    bootstrap,
    breakdowns,
    conditions,
    curves,
    estimates,
    methods,
    plots,
    recommended,
    result_tables,
    run_tables,
    significance,
)
from recllm_tasks.report.breakdowns import Point
from recllm_tasks.report.conditions import Prepared
from recllm_tasks.report.estimates import MAIN_METRIC, Measured
from recllm_tasks.report.result_tables import column_title
from recllm_tasks.report.runs import Run
from recllm_tasks.report.table import Table
from recllm_tasks.runs import results
from recllm_tasks.runs.decoding import LEAVE_OUT
from recllm_tasks.runs.results import KINDS


@dataclasses.dataclass(frozen=True)
class Figure:
    """A plot; a table shows the same numbers, for formats without plots."""

    svg: str


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    items: Sequence[Table | Figure]
    text: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    title: str
    lead: Sequence[str]
    sections: Sequence[Section]

    @property
    def tables(self) -> list[Table]:
        return [i for section in self.sections for i in section.items if isinstance(i, Table)]


# What the metrics of a section's tables say, in plain words.
_METRICS = {
    "retrieval": "Retrieval asks for a user's next item, of all items of the catalog. HR@10 is the "
    "share of users whose next item is among the first ten of their list. NDCG@10 counts it the "
    "more the higher it stands: 1 in the first place, 0.63 in the second, 0.29 in the tenth.",
    "ranking": "Ranking asks for a user's next item, of a few that are given and of which one is "
    "right. HR@1 is the share of users for whom it comes first; NDCG@10 counts it the more the "
    "higher it stands: 1 in the first place, 0.63 in the second, 0.29 in the tenth.",
    "rating": "Rating asks whether a user would like an item. AUC is the chance that an item that "
    "was liked has a higher score than one that was not; 50 % is guessing.",
}
_INTERVALS = (
    f"The range beneath a number is its {100 * bootstrap.LEVEL:.0f} % bootstrap interval: users "
    f"are drawn again, with replacement, {bootstrap.REPLICATES:,} times, alike for every row, and "
    f"the range holds the middle {100 * bootstrap.LEVEL:.0f} % of what comes out"
)
_TEST = (
    f"{result_tables.BETTER} and {result_tables.WORSE} say that a row is better or worse than the "
    f"best baseline with p < {significance.ALPHA} in a two-sided test that compares them user by "
    "user: {how}. p values are adjusted after Holm, over the rows of a column. The best baseline "
    "is chosen on the same users."
)
_HOW = {
    "rating": "a paired bootstrap",
    "": f"the signs of the users' differences are flipped at random, {significance.PERMUTATIONS:,} "
    "times",
}
_SHARED = (
    "Rows share a column only if they were measured on the same dataset with the same fingerprint "
    "(of the data without short ids), the same protocol, split, number of users and rule for seen "
    "items: whether lists leave out or keep what the user already has. Ranking and rating are "
    "about given items, where the rule says nothing.",
)


def build(runs: Sequence[Run], prepared: Mapping[str, Prepared]) -> Report:
    """All sections that have something to show.

    Args:
      runs: see runs.load.
      prepared: datasets by fingerprint, see conditions.prepared_datasets.
    """
    kinds = list(dict.fromkeys([*KINDS, *(run.kind(t) for run in runs for t in run.metrics)]))
    measured: dict[str, list[Measured]] = {}
    for kind in kinds:
        found = conditions.by_condition(runs, kind, prepared)
        if found:
            measured[kind] = [estimates.measure(kind, at, of) for at, of in found.items()]
    for of in (of for found in measured.values() for of in found):
        if of.condition.fingerprint in prepared:
            recommended.check_rows(of, prepared[of.condition.fingerprint].train_count)
    sections = [_results(kind, found) for kind, found in measured.items()]
    sections += [_ablations(measured), _ties(measured), _lists(measured, prepared)]
    sections += [_groups(measured, prepared), _training(runs), _cost(measured)]
    fingerprints = run_tables.fingerprint_table(runs, prepared)
    sections.append(Section("Fingerprints", [fingerprints], _SHARED))
    lead = _lead(runs, [of for found in measured.values() for of in found])
    return Report("Recommendation results", lead, [s for s in sections if s.items])


def _lead(runs: Sequence[Run], measured: Sequence[Measured]) -> list[str]:
    """What the page is, in three lines."""
    datasets = ", ".join(dict.fromkeys(of.condition.title for of in measured))
    estimates_of = [e for of in measured for found in of.estimates.values() for e in found.values()]
    lead = [
        f"{len(runs)} rows of {datasets}: ways to recommend, measured on the same users where they "
        "share a column.",
        "Higher is better in every column; bold is the best of a column; an empty cell was not "
        "measured.",
    ]
    if any(estimate.best_baseline for estimate in estimates_of):
        marks = (
            f"{result_tables.BASELINE} is the best baseline, the highest of all rows but language "
            "models fine-tuned on our prompts"
        )
        if any(estimate.difference for estimate in estimates_of):
            marks += (
                f"; {result_tables.BETTER} is better and {result_tables.WORSE} worse than it, by "
                "more than chance explains"
            )
        lead.append(f"{marks}.")
    return lead


def _results(kind: str, measured: Sequence[Measured]) -> Section:
    items: list[Table | Figure] = [*result_tables.main_tables(kind, measured)]
    if kind in MAIN_METRIC:
        items += [figure for of in measured if (figure := _forest(kind, of))]
        items += result_tables.difference_tables(kind, measured)
    title = {"rating": "Rating prediction"}.get(kind, kind.capitalize() if kind in KINDS else kind)
    return Section(title, items, _explained(kind, measured))


def _explained(kind: str, measured: Sequence[Measured]) -> list[str]:
    """The metrics and statistics that the section's tables show."""
    shown = [e for of in measured for found in of.estimates.values() for e in found.values()]
    text = [_METRICS[kind]] if kind in _METRICS else []
    if any(not math.isnan(estimate.low) for estimate in shown):
        drawn = " (of AUC by the users' placements)" if kind == "rating" else ""
        missing = ". A row without a range has no per-user results."
        text.append(f"{_INTERVALS}{drawn}{missing}")
    if any(estimate.difference for estimate in shown):
        text.append(_TEST.format(how=_HOW.get(kind, _HOW[""])))
    if any(
        cell.paper
        for table in result_tables.main_tables(kind, measured)
        for row in table.rows
        for cell in row.cells
    ):
        text.append("Numbers in italics beneath ours are the paper's, as printed.")
    return text


def _forest(kind: str, of: Measured) -> Figure | None:
    key, rows = MAIN_METRIC[kind], []
    for place, run in enumerate(of.runs):
        estimate = of.estimates[place].get(key)
        if estimate is None:
            continue
        unit = 100 if key == "auc" else 1
        printed = result_tables.printed(of, methods.paper_row(run, kind), key)
        point = Point(*(unit * value for value in (estimate.value, estimate.low, estimate.high)))
        colour = methods.PARTS.index(methods.part(run, kind))
        rows.append((of.labels[place], colour, point, float(printed) if printed else None))
    title = f"{column_title(key)}, {of.condition.text}"
    theirs = "; diamonds are the paper's" if any(paper for *_, paper in rows) else ""
    if theirs and of.condition.seen == LEAVE_OUT:
        theirs += ", which keep seen items"
    axis = column_title(key) + theirs
    chance = 50 if key == "auc" else 0
    svg = plots.forest_plot(title, rows, axis, chance) if len(rows) > 1 else ""
    return Figure(svg) if svg else None


def _ablations(measured: Mapping[str, Sequence[Measured]]) -> Section:
    items = [
        table
        for kind, found in measured.items()
        if kind in KINDS
        for table in result_tables.ablation_tables(kind, found)
    ]
    return Section("Ablations", items)


def _ties(measured: Mapping[str, Sequence[Measured]]) -> Section:
    items = [t for kind, found in measured.items() for t in run_tables.ties_tables(kind, found)]
    text = (
        "Many interactions of a user have the same time. `published` keeps the order of the raw "
        "file, `shuffled` draws a random one.",
    )
    return Section("Both orders of ties", items, text)


def _lists(measured: Mapping[str, Sequence[Measured]], prepared: Mapping) -> Section:
    items: list[Table | Figure] = []
    for of in (of for kind in ("retrieval", "ranking") for of in measured.get(kind, ())):
        known = prepared.get(of.condition.fingerprint)
        tables = recommended.tables(of, known.train_count if known else None)
        items += tables
        if len(tables) > 1:
            figure = _decile_figure(of, tables[1])
            items += [figure] if figure else []
    return Section("What is recommended", items)


def _decile_figure(of: Measured, table: Table) -> Figure | None:
    chosen = {"the targets", *(label for label in _leading(of))}
    lines = [
        (row.name, [Point(float(cell.text) if cell.text else math.nan) for cell in row.cells])
        for row in table.rows
        if row.name in chosen
    ]
    axis = "tenths of the catalog, the least popular first"
    svg = plots.line_plot(table.title, table.columns, lines, axis, "share (%)")
    return Figure(svg) if svg else None


def _leading(of: Measured, most: int = plots.MOST_LINES - 1) -> list[str]:
    """Labels of the best runs; half are our language models, if there are enough."""
    key = MAIN_METRIC[of.kind]
    places = [place for place in of.users if key in of.estimates[place]]
    places.sort(key=lambda place: -of.estimates[place][key].value)
    ours = [p for p in places if not methods.is_baseline(of.runs[p], of.kind)]
    baselines = [p for p in places if methods.is_baseline(of.runs[p], of.kind)]
    num_ours = max(most // 2, most - len(baselines))
    chosen = ours[:num_ours] + baselines[: most - len(ours[:num_ours])]
    return [of.labels[place] for place in sorted(chosen)]


def _groups(measured: Mapping[str, Sequence[Measured]], prepared: Mapping) -> Section:
    items: list[Table | Figure] = []
    for of in (of for kind in KINDS for of in measured.get(kind, ())):
        known = prepared.get(of.condition.fingerprint)
        for breakdown in (
            breakdowns.by_history(of),
            breakdowns.by_popularity(of, known.train_count if known else None),
            breakdowns.by_co_occurrence(of),
        ):
            if breakdown:
                items.append(breakdown.table())
                items.append(Figure(_group_plot(of, breakdown)))
    text = (f"Plots show the leading rows, {plots.MOST_LINES - 1} at most; tables hold all.",)
    return Section("By history, by popularity and by co-occurrence", items, text)


def _group_plot(of: Measured, breakdown: breakdowns.Breakdown) -> str:
    chosen, unit = _leading(of), 100 if breakdown.metric == "auc" else 1
    lines = [
        (label, [Point(*(unit * v for v in dataclasses.astuple(point))) for point in points])
        for label, _, points in breakdown.lines
        if label in chosen
    ]
    title = f"{breakdown.title}, {breakdown.note}"
    y_title = column_title(breakdown.metric)
    return plots.line_plot(title, breakdown.groups, lines, breakdown.by, y_title)


def _training(runs: Sequence[Run]) -> Section:
    """Curves by step from the runs' logs, by epoch from the results of baselines."""
    steps, epochs = {}, {}
    # The evaluations of a run share its training.
    of_folder = {run.folder: run for run in runs if results.folder_of(run.path)}
    for folder, run in of_folder.items():
        for of, found in ((curves.load(folder), steps), (run.epochs, epochs)):
            if of:
                found[folder.name if folder.name not in found else str(folder)] = of
    items = [*_curves(steps, "step"), *_curves(epochs, "epoch")]
    text = (f"Plots show {plots.MOST_LINES} runs at most; tables hold all.",) if items else ()
    return Section("Training", items, text)


def _curves(found: Mapping[str, curves.Curves], unit: str) -> list[Table | Figure]:
    table = run_tables.curve_table(found, unit)
    if table is None:
        return []
    losses = [(name, of.get("loss", [])) for name, of in found.items()]
    validations = []
    for name, of in found.items():
        main = run_tables.main_validation(of)
        if main and len(main[1]) > 1:
            validations.append((f"{name}: {main[0]}", main[1]))
    figures = [
        plots.curve_plot(f"Loss by {unit}", losses, unit, "loss"),
        plots.curve_plot(f"Validation by {unit}", validations, unit, "metric"),
    ]
    return [table, *(Figure(svg) for svg in figures if svg)]


def _cost(measured: Mapping[str, Sequence[Measured]]) -> Section:
    tables = [run_tables.cost_table(kind, found) for kind, found in measured.items()]
    return Section("Cost", [table for table in tables if table])
