"""A run's label, its row in the paper's tables, and its place in ours."""

import re

from recllm_tasks.baselines.rows import WITH_PRIOR, name_of
from recllm_tasks.data.options import RANDOM
from recllm_tasks.report import paper_results
from recllm_tasks.report.runs import Run, normalized
from recllm_tasks.runs.decoding import Decoding

# Parts of a table, in order; rows that the paper lacks come first.
SIMPLE, CONVENTIONAL, LANGUAGE_MODELS, OURS = "simple", "conventional", "language models", "ours"
PARTS = (SIMPLE, CONVENTIONAL, LANGUAGE_MODELS, OURS)

_OF_MIXTURE = {
    "reat": "ReAT",
    "raat": "RaAT",
    "rpat": "RpAT",
    "ut": "UT",
    "ut_at": "UT+AT",
    "ut_ie": "UT+IE",
}
_CONVENTIONAL = {normalized(name): name for name in paper_results.CONVENTIONAL} | {
    "bpr": "BPR-MF",
    "widendeep": "Wide&Deep",
    "wideanddeep": "Wide&Deep",
}
# Steps of Tables 4-6 by training mixture.
_STEPS = {
    "": "zero-shot",
    "{kind}": "+{kind}",
    "{kind}_mlm": "+MLM",
    "{kind}_mlm_mim": "+MIM",
    "reat": "+MIM",
    "rpat": "+MIM",
    "raat": "+BPR",
}
STEPS = ("zero-shot", "+{kind}", "+MLM", "+MIM", "+BPR")


def is_zero_shot(run: Run) -> bool:
    """Whether a language model was measured without fine-tuning."""
    return bool(run.mixture) and run.step is not None and run.step == (run.initial_step or 0)


def has_prior(run: Run) -> bool:
    """Whether the model ranks together with item-to-item: another method than the model alone."""
    return bool(run.decoding and run.decoding.prior_weight)


def trained_on(run: Run) -> str:
    """The mixture without the dataset's name, such as `ut_at`; "" if none, or not trained."""
    return "" if is_zero_shot(run) else run.mixture.removeprefix(f"{run.dataset}_")


def paper_row(run: Run, kind: str) -> str:
    """The row of the paper's Tables 1-3 that a run reproduces, or ""."""
    if has_prior(run):
        return ""
    if run.mixture:
        size = normalized(run.model)
        if is_zero_shot(run):
            return {"flant5xl": "FLAN-T5-XL", "flant5base": "FLAN-T5-Base"}.get(size, "")
        if trained_on(run) == "p5":
            return "P5-XL" if size == "flant5xl" else "P5"
        if trained_on(run) == f"{kind}_mlm_mim":
            return {"retrieval": "ReAT", "rating": "RpAT"}.get(kind, "")
        return _OF_MIXTURE.get(trained_on(run), "")
    found = _CONVENTIONAL.get(normalized(run.model)) or next(
        (
            name
            for spelled, name in _CONVENTIONAL.items()
            if len(spelled) > 3 and normalized(run.model).startswith(spelled)
        ),
        "",
    )
    rows = paper_results.RESULTS.get(kind)
    return found if rows and any(found in of for of in rows.numbers.values()) else ""


def part(run: Run, kind: str) -> str:
    row = paper_row(run, kind)
    if run.mixture:
        theirs = is_zero_shot(run) or row in paper_results.LANGUAGE_MODELS
        return LANGUAGE_MODELS if theirs else OURS
    return CONVENTIONAL if row else SIMPLE


def is_baseline(run: Run, kind: str) -> bool:
    return part(run, kind) != OURS


def label(run: Run, kind: str) -> str:
    """A run's name in tables: the method, then in brackets what distinguishes the run."""
    if not run.mixture:
        return _baseline_label(run, kind)
    trained = trained_on(run)
    name = "zero-shot" if not trained else paper_row(run, kind) or trained
    details = [run.model]
    details += [f"{run.ids} ids"] if run.ids not in ("", RANDOM) else []
    if is_zero_shot(run) and paper_row(run, kind):
        name, details = paper_row(run, kind), ["zero-shot"]
    if run.step is not None and trained:
        details.append(f"{run.step - (run.initial_step or 0):,} steps")
    if run.seed:
        details.append(f"seed {run.seed}")
    name += WITH_PRIOR if has_prior(run) else ""
    return f"{name} ({', '.join([*details, *_decoding(run)])})"


def _decoding(run: Run) -> list[str]:
    """How decoding differs from the default."""
    decoding = run.decoding or Decoding()
    return [
        *([f"{decoding.num_beams} beams"] if decoding.num_beams != Decoding.num_beams else []),
        *(["free text"] if not decoding.constrained else []),
        *([decoding.method] if decoding.method != Decoding.method else []),
        *([f"prior {decoding.prior_weight:g}"] if has_prior(run) else []),
    ]


def _baseline_label(run: Run, kind: str) -> str:
    row = paper_row(run, kind)
    name = name_of(run.model)
    if name is not None and not row:  # rows of the paper have its names
        return name
    spelled = normalized(run.model)
    if run.title:
        return run.title
    if not row:
        return _CONVENTIONAL.get(spelled, run.model)
    rest = re.sub(r"[_\s-]+", " ", run.model)[len(row) :].strip(" ,")
    return f"{row}, {rest}" if spelled != normalized(row) and rest else row


def ablation_step(run: Run, kind: str) -> str:
    """The run's step in Tables 4-6, such as `zero-shot` or `+MLM`, or ""."""
    if not run.mixture or has_prior(run):
        return ""
    steps = {of.format(kind=kind): step.format(kind=kind) for of, step in _STEPS.items()}
    aimed = {"reat": "retrieval", "raat": "ranking", "rpat": "rating"}.get(trained_on(run), kind)
    return steps.get(trained_on(run), "") if aimed == kind else ""


def sort_key(run: Run, kind: str) -> tuple:
    """By part, then the paper's rows in its order, then other rows by name."""
    table = paper_results.RESULTS.get(kind)
    order = list(next(iter(table.numbers.values()))) if table else []
    row = paper_row(run, kind)
    place = order.index(row) if row in order else len(order)
    return (PARTS.index(part(run, kind)), place, label(run, kind), str(run.path))
