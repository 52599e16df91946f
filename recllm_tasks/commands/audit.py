"""`recllm audit`: proves over a whole dataset that nothing held out is given away."""

import json
import sys
import time

from rich.console import Console
from rich.text import Text

from recllm_tasks.commands import setup
from recllm_tasks.errors import UserError


def run(args) -> int:
    setup.use_data_dir(args)
    setup.register_tasks(args)
    from recllm_tasks.audit.dataset import audit

    if args.seeds < 1:
        raise UserError(f"Number of seeds: got {args.seeds}, expected at least 1; correct --seeds")
    fingerprint = setup.prepared(args.dataset).fingerprint
    start, checks = time.monotonic(), []
    terminal = Console(highlight=False, soft_wrap=True)
    for check in audit(args.dataset, args.seeds, args.p5):
        checks.append(check)
        if not args.json:
            _print(check, terminal)
    failed = [check.name for check in checks if not check.passed]
    seconds = round(time.monotonic() - start, 1)
    if args.json:
        results = {
            "dataset": args.dataset,
            "fingerprint": fingerprint,
            "passed": not failed,
            "seconds": seconds,
            "checks": [check.to_json() for check in checks],
        }
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    else:
        count = f"{len(failed)} of {len(checks)} checks failed" if failed else "all checks passed"
        if not args.p5:
            terminal.print("P5's tasks were not read: --p5", style="dim")
        terminal.print(f"{args.dataset}: {count} in {seconds} s; fingerprint {fingerprint[:12]}")
    return 1 if failed else 0


def _print(check, terminal: Console) -> None:
    figures = ", ".join(f"{name} {_written(value)}" for name, value in check.figures.items())
    mark = Text("ok    ", "green") if check.passed else Text("FAIL  ", "bold red")
    terminal.print(mark + Text(check.claim) + Text(f": {figures}", "dim"))
    if check.offender:
        terminal.print(Text(f"      first: {check.offender}"))


def _written(value) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
