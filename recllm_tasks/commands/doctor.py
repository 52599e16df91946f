"""`recllm doctor`: what is installed, whether it fits together, and what to do where not."""

import json
import sys

from rich.console import Console
from rich.text import Text

from recllm_tasks.commands import setup
from recllm_tasks.commands.checkup import checkup

_MARKS = {"ok": ("ok    ", "green"), "note": ("note  ", "dim"), "problem": ("FAIL  ", "bold red")}


def run(args) -> int:
    with setup.quiet_stderr():
        findings = list(checkup())
    problems = [finding for finding in findings if finding.kind == "problem"]
    if args.json:
        sys.stdout.write(json.dumps([finding._asdict() for finding in findings], indent=2) + "\n")
    else:
        terminal = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            mark, style = _MARKS[finding.kind]
            terminal.print(Text(mark, style) + Text(f"{finding.what}: {finding.found}"))
            if finding.advice:
                terminal.print(Text(f"      {finding.advice}"))
        terminal.print(
            f"{len(problems)} to mend" if problems else "everything that is needed fits together"
        )
    return 1 if problems else 0
