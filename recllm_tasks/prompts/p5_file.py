"""Reads templates from P5's template file without running it.

The file (`src/all_amazon_templates.py` of github.com/jeykigung/P5) is Python that fills
dictionaries:

    template['source'] = "… user_{} …"     text, with a {} for each name in source_argv
    template['source_argv'] = ['user_id', …]
    template['target'], template['target_argv'], template['task'], template['id']
    task_subgroup_2["2-1"] = template

These assignments are read from the syntax tree; anything else in the file is an error. A template
becomes retrieval, ranking if it lists candidates (such as the paper's 2-7, which P5 calls
sequential), or rating. Other templates are skipped, and the reason is reported.
"""

import ast
import dataclasses
import re
import string
import warnings
from pathlib import Path
from typing import NoReturn

from recllm_tasks.errors import UserError
from recllm_tasks.prompts import p5
from recllm_tasks.prompts.templates import Choice, Items, Part, Slot, Template, User

# P5's own file has 70 KB. Python's parser is not safe against hostile input such as endlessly
# nested brackets, so larger files are refused.
_MAX_BYTES = 1 << 20
_MAX_TEXT = 2000
_REMEDY = "use P5's src/all_amazon_templates.py, or a file of the same form"

_ID = re.compile(r"[0-9A-Za-z]{1,8}-[0-9]{1,4}")
_KINDS = {"rating": "rating", "sequential": "retrieval", "traditional": "ranking"}
_TEXTS = ("source", "target", "task", "id")
_LISTS = ("source_argv", "target_argv")

_LISTED = ("purchase_history", "visit_history", "candidates")
_ITEM_ANSWERS = ("item_id", "groundtruth_item_ids")
_CHOICES = {
    "star_rating": p5.STARS,
    "like_dislike": Choice("target_liked", ("dislike", "like")),
}
_MISSING = {
    "user_desc": "users' names",
    "yes_no": "pairs with a yes or no answer",
}


@dataclasses.dataclass(frozen=True)
class P5Templates:
    """The templates of a file.

    Attributes:
      templates: `<kind>_<n>` → template, where n is its id with an underscore (`retrieval_2_1`),
        because SeqIO's names have no hyphens.
      left_out: id → why the template was skipped.
    """

    templates: dict[str, Template]
    left_out: dict[str, str]


class _Values(dict):
    """A dictionary in the file, with the line of each key."""

    def __init__(self):
        super().__init__()
        self.lines: dict[str, int] = {}


def read(path: str | Path) -> P5Templates:
    """Reads the templates that work with a prepared dataset.

    Raises:
      UserError: the file is missing or has another form; the message names line and value.
    """
    path = Path(path).expanduser()
    templates: dict[str, Template] = {}
    left_out: dict[str, str] = {}
    seen: set[str] = set()
    for line, values in _found(_Reader(path)):
        _check(path, line, values, seen)
        task, needs = values["task"], [*values["source_argv"], *values["target_argv"]]
        reason = _reason(task, values)
        if reason:
            left_out[values["id"]] = reason
            continue
        kind = "ranking" if "candidates" in needs else _KINDS[task]
        name = f"{kind}_{values['id'].replace('-', '_')}"
        templates[name] = _template(path, values)
    if not templates:
        raise UserError(
            f"templates for '{path}': got none that can be used, expected some for the tasks "
            f"{', '.join(_KINDS)}; {_REMEDY}"
        )
    return P5Templates(templates, left_out)


class _Reader:
    """Collects the dictionaries that a file's assignments create, by name."""

    def __init__(self, path: Path):
        self.path = path
        self.names: dict[str, _Values] = {}
        self.created: list[_Values] = []
        for node in self._parse():
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                self._assign(node.targets[0], node.value)
            elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                self._refuse(node, "an assignment such as template['id'] = \"2-1\"")

    def _parse(self) -> list[ast.stmt]:
        try:
            if self.path.stat().st_size > _MAX_BYTES:
                raise UserError(
                    f"templates for '{self.path}': got {self.path.stat().st_size:,} bytes, "
                    f"expected at most {_MAX_BYTES:,}; {_REMEDY}"
                )
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            got = getattr(error, "strerror", None) or "bytes that are not UTF-8"
            raise UserError(
                f"templates for '{self.path}': got {got}, expected a Python file; {_REMEDY}"
            ) from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about escapes in strings
                return ast.parse(text).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None) or 1
            got = getattr(error, "msg", None) or str(error) or type(error).__name__
            raise UserError(
                f"templates for '{self.path}', line {line}: got {got}, expected Python; {_REMEDY}"
            ) from error

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            if isinstance(value, ast.Name) and value.id in self.names:
                self.names[target.id] = self.names[value.id]
            elif isinstance(value, ast.Dict) and not value.keys:
                self.names[target.id] = _Values()
                self.created.append(self.names[target.id])
            else:
                self._refuse(value, "{} or a known dictionary")
            return
        if not (
            isinstance(target, ast.Subscript)
            and isinstance(target.value, ast.Name)
            and target.value.id in self.names
            and isinstance(target.slice, ast.Constant)
            and isinstance(target.slice.value, str)
        ):
            self._refuse(target, "a known dictionary with a string as its key")
        values = self.names[target.value.id]
        values[target.slice.value] = self._value(value)
        values.lines[target.slice.value] = target.lineno

    def _value(self, node: ast.expr) -> object:
        """A string, an integer, a list of strings, or a dictionary defined before."""
        if isinstance(node, ast.Name) and node.id in self.names:
            return self.names[node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, int)):
            return node.value
        if isinstance(node, ast.List):
            constants = [item.value for item in node.elts if isinstance(item, ast.Constant)]
            strings = [value for value in constants if isinstance(value, str)]
            if len(strings) == len(node.elts):
                return strings
        self._refuse(node, "a string, an integer, a list of strings, or a known dictionary")

    def _refuse(self, node: ast.expr | ast.stmt, expected: str) -> NoReturn:
        try:
            got = ast.unparse(node)
        except RecursionError:
            got = type(node).__name__
        got = got.splitlines()[0][:60]
        raise UserError(
            f"templates for '{self.path}', line {node.lineno}: got {got}, expected {expected} "
            f"(the file is read, not run); {_REMEDY}"
        )


def _found(reader: _Reader) -> list[tuple[int, _Values]]:
    """The dictionaries that are templates, with their first lines, in the file's order."""
    found = [values for values in reader.created if "source" in values]
    return [(min(values.lines.values()), values) for values in found]


def _check(path: Path, line: int, values: _Values, seen: set[str]) -> None:
    """Raises UserError for a template with a missing or invalid value."""

    def refuse(key: str, expected: str) -> None:
        raise UserError(
            f"templates for '{path}', line {values.lines.get(key, line)}: got {key} "
            f"{str(values.get(key))[:60]!r}, expected {expected}; {_REMEDY}"
        )

    for key in _TEXTS:
        text = values.get(key)
        if not isinstance(text, str) or not 0 < len(text) <= _MAX_TEXT:
            refuse(key, f"a string of at most {_MAX_TEXT:,} characters")
    for key in _LISTS:
        if not isinstance(values.get(key), list):
            refuse(key, "a list of names")
    if not _ID.fullmatch(values["id"]) or values["id"] in seen:
        refuse("id", "an id such as '2-1' that no other template has")
    seen.add(values["id"])
    for text, names in (("source", "source_argv"), ("target", "target_argv")):
        try:
            fields = [field for _, *field in string.Formatter().parse(values[text])]
        except ValueError:
            refuse(text, "a string with {} and no other braces")
        fields = [field for field in fields if field[0] is not None]
        plain = values[text].replace("{}", "")
        if any(field != ["", "", None] for field in fields) or "{" in plain or "}" in plain:
            refuse(text, "a string with {} and no other braces")
        if len(fields) != len(values[names]):
            refuse(text, f"a {{}} for each of {', '.join(values[names])}")


def _reason(task: str, values: _Values) -> str | None:
    """Why a template is skipped; None if it is not."""
    if task not in _KINDS:
        return f"its task, {task[:40]}, is not one of {', '.join(_KINDS)}"
    source, target = values["source_argv"], values["target_argv"]
    for name in (*source, *target):
        if name in _MISSING:
            return f"needs {_MISSING[name]} ({name})"
    unknown = [name for name in source if name not in _SLOTS]
    if unknown:
        return f"needs {', '.join(unknown)[:60]}"
    if len(target) != 1 or values["target"] != "{}":
        return "its target is more than one answer"
    if task == "rating":
        fits = target[0] in _CHOICES and not {*_LISTED} & {*source}
        return None if fits else f"asks for {target[0][:40]} of a rating"
    if target[0] not in _ITEM_ANSWERS:
        return f"asks for {target[0][:40]}"
    if {"item_id", "item_title"} & {*source}:
        return "shows the item that it asks for"
    if task == "traditional" and "candidates" not in source:
        return "names no candidates"
    return None


def _template(path: Path, values: _Values) -> Template:
    names = iter(values["source_argv"])
    parts: list[Part] = []
    words: list[str] = []
    for word in values["source"].split():
        count = word.count("{}")
        if not count:
            words.append(word)
            continue
        if count > 1:
            line = values.lines["source"]
            raise UserError(
                f"templates for '{path}', line {line}: got the word {word[:40]!r}, expected at "
                f"most one {{}} per word; {_REMEDY}"
            )
        if words:
            parts.append(" ".join(words))
        words = []
        before, after = word.split("{}")
        parts.append(_slot(path, values, next(names), before, after))
    if words:
        parts.append(" ".join(words))
    (answer,) = values["target_argv"]
    return Template(tuple(parts), (_CHOICES.get(answer, p5.ANSWER),))


def _slot(path: Path, values: _Values, name: str, before: str, after: str) -> Slot:
    """The slot that replaces {} in `before{}after`."""
    if name in _LISTED and before:
        raise UserError(
            f"templates for '{path}', line {values.lines['source']}: got {before[:40]!r} "
            f"directly before the list of {name}, expected a space; {_REMEDY}"
        )
    return _SLOTS[name](before, after)


_SLOTS = {
    "user_id": lambda before, after: User(f"{before}{p5.NUMBER}{after}"),
    "item_id": lambda before, after: Items("target", f"{before}{p5.NUMBER}{after}"),
    "item_title": lambda before, after: Items("target", f"{before}{{title}}{after}"),
    "purchase_history": lambda before, after: p5.history(after),
    "visit_history": lambda before, after: p5.history(after),  # in Yelp's templates
    "candidates": lambda before, after: p5.candidates(after),
}
