"""docs/fidelity.md names every "Our choice" of the sources, and no other."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "fidelity.md"
MARK = re.compile(r"our\s+(?:#\s*)?choices?\b", re.IGNORECASE)
ROW = re.compile(r"^\| `([^`]+)` \| (.+) \|$", re.MULTILINE)


def choices_of_python(text: str, module: str) -> set[str]:
    """`module.qualified_name` of each place; comments go by the name that is assigned next."""
    spans = []

    def visit(node: ast.AST, names: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = (*names, child.name)
                spans.append((child.lineno, child.end_lineno, ".".join(inner)))
            visit(child, inner)

    visit(ast.parse(text), ())
    found = set()
    for match in MARK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        inside = [name for first, last, name in spans if first <= line <= last]
        own = text.splitlines()[line - 1]
        name = inside[-1] if inside else _next_name(text, line) if own.startswith("#") else ""
        found.add(f"{module}.{name}".rstrip("."))
    return found


def _next_name(text: str, line: int) -> str:
    """What the first line after a comment binds."""
    rest = (row for row in text.splitlines()[line:] if not row.startswith("#"))
    return re.match(r"[\w.]*", next(rest))[0]


def choices() -> set[str]:
    found = set()
    for path in sorted((ROOT / "recllm_tasks").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found |= choices_of_python(path.read_text(), module.removesuffix(".__init__"))
    for path in sorted((ROOT / "gin").rglob("*.gin")):
        text = path.read_text()
        for match in MARK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.add(f"{path.relative_to(ROOT)}:{_next_name(text, line)}")
    return found


def test_every_choice_is_on_the_page_with_a_reason():
    section = PAGE.read_text().split("## Our choices")[1]
    rows = ROW.findall(section)
    named = [name for name, _ in rows]
    assert len(named) == len(set(named))
    assert sorted(choices() - set(named)) == [], "add a row to docs/fidelity.md"
    assert sorted(set(named) - choices()) == [], "remove the row from docs/fidelity.md"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('"""A module.\n\nOur choice: yes.\n"""\n', "m"),
        ('def f():\n    """Our choice."""\n', "m.f"),
        (
            'class A:\n    def f(self):\n        """Does. Our\n        choice: x.\n        """',
            "m.A.f",
        ),
        ("# Why. Our choice:\n# because.\nLIMIT: int = 3\n", "m.LIMIT"),
        ("def f():\n    # Our choices.\n    return 1\n", "m.f"),
    ],
)
def test_a_new_choice_is_noticed(text, name):
    assert choices_of_python(text, "m") == {name}


def test_files_that_the_page_names_exist():
    statements = PAGE.read_text().split("## Assumptions")[0]
    paths = re.findall(r"`((?:gin/)?[a-z_0-9/]+(?:\.py|\.gin|/))`", statements)
    assert len(paths) > 30
    for path in set(paths) - {"recllm_tasks/"}:
        assert (ROOT / (path if path.startswith("gin/") else f"recllm_tasks/{path}")).exists(), path


def test_names_that_the_page_gives_are_in_their_files():
    statements = PAGE.read_text().split("## Assumptions")[0]
    for path, names in re.findall(r"`([a-z_0-9/]+\.py)` \(((?:`\w+`(?:, )?)+)\)", statements):
        text = (ROOT / "recllm_tasks" / path).read_text()
        for name in re.findall(r"\w+", names):
            assert re.search(rf"\b{name}\b", text), (path, name)
