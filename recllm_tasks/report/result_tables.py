"""The paper's Tables 1-6 with our numbers: one row per run, one column group per dataset."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from recllm_tasks.data.options import LEAVE_ONE_OUT
from recllm_tasks.report import methods, paper_results
from recllm_tasks.report.conditions import sheets
from recllm_tasks.report.estimates import MAIN_METRIC, Estimate, Measured, metrics_of
from recllm_tasks.report.runs import CHOSEN_BY
from recllm_tasks.report.table import Cell, Row, Table, fraction, p_value, percent, signed
from recllm_tasks.runs.decoding import LEAVE_OUT

PAPER_KEEPS = (
    "The paper's numbers keep seen items: §4.1 does not leave them out, and its beams may be any "
    "text."
)
BETTER, WORSE, BASELINE = "▲", "▼", "◆"
_MARKS = {"better": BETTER, "worse": WORSE}
_TITLES = {
    "ndcg@5": "NDCG@5",
    "ndcg@10": "NDCG@10",
    "hr@1": "HR@1",
    "hr@5": "HR@5",
    "hr@10": "HR@10",
    "mrr": "MRR",
    "auc": "AUC (%)",
}
_SIZES = {"flant5xl": "FLAN-T5-XL", "flant5base": "FLAN-T5-Base"}


@dataclasses.dataclass(frozen=True)
class _Place:
    """A run within its condition."""

    measured: Measured
    place: int

    @property
    def run(self):
        return self.measured.runs[self.place]

    @property
    def label(self) -> str:
        return self.measured.labels[self.place]


def column_title(metric: str) -> str:
    return _TITLES.get(metric, metric)


def shown(metric: str) -> Callable[[float | None], str]:
    """How a metric is printed."""
    return percent if metric == "auc" else fraction


def main_tables(kind: str, measured: Sequence[Measured]) -> list[Table]:
    """Table 1, 2 or 3, or a custom task's, for each split and order of ties."""
    paper = paper_results.RESULTS.get(kind)
    found = []
    for sheet in _sheets(measured):
        rows = _rows(sheet, lambda at: at.label, lambda at: methods.part(at.run, kind))
        keys = metrics_of(kind, [run for of in sheet for run in of.runs])
        table_rows = [
            Row(name, _cells(sheet, places, keys, methods.paper_row(places[0].run, kind)), part)
            for (part, name), places in rows.items()
        ]
        beside = any(cell.paper for row in table_rows for cell in row.cells)
        if paper:
            table_rows += _delta(kind, sheet, keys, beside)
        title = _named(_title(paper, beside) if paper else kind, sheet)
        notes = [of.condition.text for of in sheet]
        if paper and beside:
            notes += _of_paper(sheet)
            if missing := _missing(paper, sheet):
                notes.append(f"In the paper, without a run here: {', '.join(missing)}.")
        if cut_short := _cut_short(sheet):
            notes.append(
                "Training reached its budget of epochs or minutes before validation stopped "
                "rising. More training may change the row (epochs in brackets): "
                f"{', '.join(cut_short)}."
            )
        found.append(_table(title, sheet, keys, table_rows, notes))
    return found


def ablation_tables(kind: str, measured: Sequence[Measured]) -> list[Table]:
    """Table 4, 5 or 6: each model's steps in the paper's order, below the best baseline."""
    paper, found = paper_results.ABLATIONS[kind], []
    for sheet in _sheets(measured):
        rows: dict[tuple[str, str], list[_Place]] = {}
        for of in sheet:
            steps = [step.format(kind=kind) for step in methods.STEPS]
            places = [_Place(of, place) for place in range(len(of.runs))]
            stepped = [at for at in places if methods.ablation_step(at.run, kind)]
            for at in sorted(
                stepped, key=lambda at: steps.index(methods.ablation_step(at.run, kind))
            ):
                name = f"{methods.ablation_step(at.run, kind)} – {at.label}"
                rows.setdefault((at.run.model, name), []).append(at)
        trained = {name for _, name in rows if not name.startswith("zero-shot")}
        if not trained:
            continue
        keys = paper.metrics
        table_rows = [
            Row(name, _cells(sheet, places, keys, "", _ablation_paper(kind, places[0])), model)
            for (model, name), places in sorted(rows.items(), key=lambda item: item[0][0])
        ]
        best = _best_baselines(kind, sheet)
        if best:
            table_rows.insert(0, Row("best baseline", _cells(sheet, best, keys, ""), "baseline"))
        notes = [of.condition.text for of in sheet]
        notes += [f"Best baseline, {at.measured.condition.title}: {at.label}." for at in best]
        beside = any(cell.paper for row in table_rows for cell in row.cells)
        if beside:
            notes += _of_paper(sheet)
            notes.append(
                "Paper: the rows of FLAN-T5-Base for a run of that size, else of FLAN-T5-XL."
            )
        title = _named(_title(paper, beside), sheet)
        found.append(_table(title, sheet, keys, table_rows, notes))
    return found


def difference_tables(kind: str, measured: Sequence[Measured]) -> list[Table]:
    """Each row minus the best baseline of its condition, in the main metric."""
    key, found = MAIN_METRIC[kind], []
    for of in measured:
        rows = []
        for place, label in enumerate(of.labels):
            difference = of.estimates[place].get(key, Estimate(math.nan)).difference
            if difference:
                show = shown(key)
                bounds = (signed(show(difference.low)), signed(show(difference.high)))
                cells = [
                    Cell(signed(show(difference.value)), bounds, p=p_value(difference.p)),
                    Cell(p_value(difference.p)),
                    Cell(difference.verdict),
                ]
                rows.append(Row(label, cells, methods.part(of.runs[place], kind)))
                best = difference.baseline
        if rows:
            columns = [f"{column_title(key)} minus {best}", "p (Holm)", ""]
            title = f"{kind.capitalize()}: difference from the best baseline, {of.condition.rule}"
            found.append(Table(title, columns, rows, notes=[of.condition.text]))
    return found


def _sheets(measured: Sequence[Measured]) -> list[list[Measured]]:
    of = {one.condition: one for one in measured}
    return [[of[condition] for condition in sheet] for sheet in sheets(list(of))]


def _title(paper: paper_results.PaperTable, beside: bool) -> str:
    """The paper's title; with its number if there are numbers of the paper in the table."""
    return f"Table {paper.number}. {paper.title}" if beside else paper.title


def _named(title: str, sheet: Sequence[Measured]) -> str:
    """A title with the rule for seen items and, unless it is the paper's, the protocol."""
    ((protocol, rule),) = {(of.condition.protocol, of.condition.rule) for of in sheet}
    title = f"{title} ({rule})"
    return title if protocol == LEAVE_ONE_OUT else f"{title} Protocol: {protocol}"


def _of_paper(sheet: Sequence[Measured]) -> list[str]:
    """What distinguishes the paper's numbers from the sheet's, if it is the rule for seen items."""
    return [PAPER_KEEPS] if {of.condition.seen for of in sheet} & {LEAVE_OUT, ""} else []


def _table(title, sheet: Sequence[Measured], keys, rows, notes) -> Table:
    return Table(
        title,
        [column_title(key) for _ in sheet for key in keys],
        rows,
        [(of.condition.title, len(keys)) for of in sheet],
        notes,
    )


def _rows(sheet: Sequence[Measured], name, part) -> dict[tuple[str, str], list[_Place]]:
    """Runs with the same name on several datasets share a row."""
    rows: dict[tuple[str, str], list[_Place]] = {}
    for of in sheet:
        for place in range(len(of.runs)):
            at = _Place(of, place)
            rows.setdefault((part(at), name(at)), []).append(at)
    return dict(sorted(rows.items(), key=lambda item: methods.PARTS.index(item[0][0])))


def _cells(sheet, places: Sequence[_Place], keys, paper_row: str, of_row=None) -> list[Cell]:
    """A row's cells; empty for datasets without such a run."""
    cells = []
    for of in sheet:
        at = next((at for at in places if at.measured is of), None)
        for key in keys:
            if at is None or (estimate := of.estimates[at.place].get(key)) is None:
                cells.append(Cell())
                continue
            paper = of_row(key) if of_row else printed(of, paper_row, key)
            cells.append(_cell(estimate, key, paper, _is_best(of, at.place, key)))
    return cells


def _cell(estimate: Estimate, key: str, paper: str, best: bool) -> Cell:
    show, difference = shown(key), estimate.difference
    bounds = None
    if not math.isnan(estimate.low):
        bounds = (show(estimate.low), show(estimate.high))
    mark = BASELINE if estimate.best_baseline else ""
    if difference:
        mark = _MARKS.get(difference.verdict, "")
    p = p_value(difference.p) if difference else ""
    return Cell(show(estimate.value), bounds, paper, mark, p, best)


def printed(of: Measured, row: str, key: str) -> str:
    dataset, table = of.condition.dataset, paper_results.RESULTS.get(of.kind)
    if not table or not of.condition.is_papers:
        return ""
    printed = table.printed(dataset, row, key)
    if not printed and of.kind == "retrieval":
        printed = paper_results.TABLE_9.printed(dataset, row, key)
    return printed


def _is_best(of: Measured, place: int, key: str) -> bool:
    values = [estimates[key].value for estimates in of.estimates.values() if key in estimates]
    return len(values) > 1 and of.estimates[place][key].value == max(values)


def _delta(kind: str, sheet: Sequence[Measured], keys, beside: bool) -> list[Row]:
    """Δ (%): our best run over the best baseline, where both exist; the paper's if `beside`."""
    cells, any_found = [], False
    for of in sheet:
        for key in keys:
            values = {True: [], False: []}
            for place, run in enumerate(of.runs):
                if key in of.estimates[place]:
                    baseline = methods.is_baseline(run, kind)
                    values[baseline].append(of.estimates[place][key].value)
            if not values[False] or not values[True] or not max(values[True]):
                cells.append(Cell())
                continue
            any_found = True
            change = 100 * (max(values[False]) / max(values[True]) - 1)
            theirs = printed(of, paper_results.DELTA, key) if beside else ""
            cells.append(Cell(signed(f"{change:.2f}"), paper=theirs))
    return [Row("Δ (%), best of ours over best baseline", cells, "Δ")] if any_found else []


def _missing(paper: paper_results.PaperTable, sheet: Sequence[Measured]) -> list[str]:
    datasets = [of.condition.dataset for of in sheet if of.condition.dataset in paper.numbers]
    if not datasets:
        return []
    ran = {methods.paper_row(run, of.kind) for of in sheet for run in of.runs}
    return [row for row in paper.numbers[datasets[0]] if row not in {*ran, paper_results.DELTA}]


def _cut_short(sheet: Sequence[Measured]) -> list[str]:
    """Rows whose training ended before their patience did, with their epochs."""
    epochs: dict[str, list[int]] = {}
    for of in sheet:
        for label, run in zip(of.labels, of.runs, strict=True):
            values = [value for _, value in run.epochs.get(CHOSEN_BY, ())]
            patience = run.settings.get("patience")
            if not values or not isinstance(patience, int):
                continue
            after_best = len(values) - 1 - values.index(max(values))
            if after_best < patience:
                epochs.setdefault(label, []).append(len(values))
    return [f"{label} ({', '.join(map(str, of))})" for label, of in sorted(epochs.items())]


def _best_baselines(kind: str, sheet: Sequence[Measured]) -> list[_Place]:
    found = []
    for of in sheet:
        key = MAIN_METRIC[kind]
        places = [
            place
            for place, run in enumerate(of.runs)
            if methods.is_baseline(run, kind) and not run.mixture and key in of.estimates[place]
        ]
        if places:
            best = max(places, key=lambda place: of.estimates[place][key].value)
            found.append(_Place(of, best))
    return found


def _ablation_paper(kind: str, at: _Place) -> Callable[[str], str]:
    """The paper's number for the same step, size and dataset."""
    paper, condition = paper_results.ABLATIONS[kind], at.measured.condition
    rows = list(paper.numbers["toys"])
    size = _SIZES.get(methods.normalized(at.run.model), "FLAN-T5-XL")
    start = next(place for place, row in enumerate(rows) if row.endswith(size))
    step = [s.format(kind=kind) for s in methods.STEPS].index(methods.ablation_step(at.run, kind))
    if not condition.is_papers or start + step >= len(rows):
        return lambda key: ""
    return lambda key: paper.printed(condition.dataset, rows[start + step], key)
