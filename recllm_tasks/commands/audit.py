"""`recllm audit`: proves over a whole dataset that no held-out data leaks into training."""

import argparse
import json
import sys
import time

from rich.console import Console
from rich.text import Text

from recllm_tasks.commands import session
from recllm_tasks.errors import UserError

SUMMARY = "prove that a dataset and its tasks leak no held-out data"
EPILOG = """\
It reads every record and runs every task over the whole dataset, the custom tasks of --module
included. It checks that the records are those that were prepared, that no later interaction is in
an earlier split, no target in its own history, no negative among the user's interactions, and no
validation or test pair in the tokens of a training example, and that short ids are in random order.
Each check prints one line; a check that fails shows its first offending record.

exit code: 0 all checks passed, 1 one failed, 2 the dataset is damaged or not prepared.

examples:
  recllm audit toys --data_dir ~/recllm_data
  recllm audit toys --module my_tasks --seeds 5 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a prepared dataset, such as toys")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each task that samples")
    parser.add_argument("--p5", action="store_true", help="check P5's tasks too: twice the time")
    parser.add_argument("--json", action="store_true", help="checks as JSON")
    session.add_data_arguments(parser)


def run(args) -> int:
    session.use_data_dir(args)
    session.register_tasks(args)
    from recllm_tasks.audit.dataset import audit

    if args.seeds < 1:
        raise UserError(f"Number of seeds: got {args.seeds}, expected at least 1; correct --seeds")
    info = session.dataset_info(args.dataset)
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
            "fingerprint": info.fingerprint,
            "passed": not failed,
            "seconds": seconds,
            "checks": [check.to_json() for check in checks],
        }
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    else:
        count = f"{len(failed)} of {len(checks)} checks failed" if failed else "all checks passed"
        if not args.p5:
            terminal.print("P5's tasks were not checked; add --p5", style="dim")
        if not info.records_digest:
            terminal.print(
                "the records were prepared without a digest, so a change is not seen; prepare the "
                "dataset again with --overwrite",
                style="dim",
            )
        terminal.print(
            f"{args.dataset}: {count} in {seconds} s; fingerprint {info.fingerprint[:12]}"
        )
    return 1 if failed else 0


def _print(check, terminal: Console) -> None:
    figures = ", ".join(f"{name} {_written(value)}" for name, value in check.figures.items())
    mark = Text("ok    ", "green") if check.passed else Text("FAIL  ", "bold red")
    terminal.print(mark + Text(check.claim) + Text(f": {figures}", "dim"))
    if check.offender:
        terminal.print(Text(f"      first: {check.offender}"))


def _written(value) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
