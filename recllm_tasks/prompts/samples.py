"""Sample prompts with made-up items, to try a model without a dataset."""

from recllm_tasks.prompts.templates import (
    RANKING,
    RATING,
    RETRIEVAL,
    Choice,
    Items,
    Template,
    Wording,
)

_TITLES = {
    "I471": "Star Wars (1977)",
    "I958": "Empire Strikes Back, The (1980)",
    "I348": "Return of the Jedi (1983)",
    "I60": "Jerry Maguire (1996)",
    "I235": "Twelve Monkeys (1995)",
}
_WORDING = Wording(noun="movies", verb="watch", verb_past="watched")
_FIELDS = {"history": ("I471", "I958", "I348"), "candidates": ("I60", "I235"), "target": ("I235",)}
_SUBSETS = {"liked": ("I471", "I348"), "disliked": ("I958",)}


def sample_prompts() -> list[tuple[str, str]]:
    """(input, target) for retrieval, ranking and rating, in the paper's wording."""
    return [
        (_written(template, "inputs"), _written(template, "targets"))
        for template in (RETRIEVAL, RANKING, RATING)
    ]


def _written(template: Template, side: str) -> str:
    texts = []
    for part in getattr(template.worded(_WORDING), side):
        if isinstance(part, Items):
            items = _SUBSETS[part.where] if part.where else _FIELDS[part.field]
            forms = [part.form] * (len(items) - 1) + [part.last_form or part.form]
            texts += [f.format(short_id=i, title=_TITLES[i]) for f, i in zip(forms, items)]
        else:
            texts.append(part.answers[1] if isinstance(part, Choice) else part)
    return " ".join(texts)
