"""Pages that are made from the sources when the site is built: a hook of mkdocs.

The front page is README.md, the commands come from their parsers, the settings from the heads of
the gin files, two tutorials from notebooks. Nothing here imports TensorFlow or JAX.
"""

import argparse
import json
import pathlib
import re
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]

# Files of the checkout that pages link to but that are not part of the site.
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?!https?:|#|docs/)([^)#]+)\)")


def on_files(files, config):
    pages = {
        "index.md": front_page(),
        "reference/commands.md": commands_page(),
        "reference/gin.md": gin_page(),
    }
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = notebook_page(path)
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def front_page() -> str:
    """README.md with links that work on the site."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = text.replace("](docs/", "](")
    text = _OUTSIDE.sub(lambda found: _link(*found.groups()), text)
    return f"---\nhide: [navigation]\n---\n\n{text}"


def _link(title: str, path: str) -> str:
    return f"[{title}]({path})" if (ROOT / "docs" / path).exists() else f"`{path}`"


def notebook_page(path: pathlib.Path) -> str:
    """Its text and code; outputs are not kept."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    # Below the title.
    parts.insert(1, f"[Download the notebook]({path.name})")
    return "\n\n".join(parts) + "\n"


def commands_page() -> str:
    sys.path.insert(0, str(ROOT))  # mkdocs restores sys.path after it imports a hook
    try:
        from recllm_tasks import cli
    finally:
        sys.path.remove(str(ROOT))
    parser = cli._parser([])
    (commands,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    parts = [
        "# Commands",
        "Every command prints this text with `--help`. Exit codes: 0 done; 1 a check found "
        "something; 2 an error that you can fix, and the message says how; 130 stopped with "
        "Ctrl-C; 143 stopped by SIGTERM after the state was saved.",
    ]
    for name, command in commands.choices.items():
        parts += [f"## recllm {name}", _escaped(command.description)]
        parts.append(f"```text\n{command.format_usage().strip()}\n```")
        for group in command._action_groups:
            rows = [action for action in group._group_actions if action.dest != "help"]
            if rows:
                parts += [f"**{group.title.capitalize()}**", "\n".join(map(_row, rows))]
        parts.append(f"```text\n{command.epilog.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def _row(action: argparse.Action) -> str:
    takes = ""
    if action.nargs != 0:
        takes = " " + str(action.metavar or action.dest.upper()) if action.option_strings else ""
        takes += " …" if action.nargs == "+" else ""
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    return f"- `{name}{takes}`: {_escaped(action.help or '')}"


def _escaped(text: str) -> str:
    return re.sub(r"([<>*_\[\]|])", r"\\\1", " ".join(text.replace("%%", "%").split()))


def gin_page() -> str:
    parts = [
        "# Settings in gin",
        "The head of each file under `gin/`. A run reads model, run, schedule and mixture, in this "
        "order; `--gin.NAME=VALUE` comes last.",
    ]
    for folder in ("models", "runs", "mixtures"):
        for path in sorted((ROOT / "gin" / folder).glob("*.gin")):
            head = []
            for line in path.read_text(encoding="utf-8").splitlines():
                if not line.startswith("#"):
                    break
                head.append(line[1:].removeprefix(" "))
            text = "\n".join(head).strip()
            parts += [f"## {folder}/{path.name}", f"```text\n{text}\n```"]
    return "\n\n".join(parts) + "\n"
