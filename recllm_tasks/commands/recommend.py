"""`recllm recommend`: the items a trained run expects next, for some or all users."""

import argparse
import contextlib
import dataclasses
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from recllm_tasks.commands import session
from recllm_tasks.errors import UserError, check_whole

SUMMARY = "write the items that a trained model expects next"
EPILOG = """\
items:
  A history lists items, oldest first, separated by commas: short ids, raw ids, whole titles, or
  titles and parts of titles in quotes, in any case, with or without accents. A title with a comma
  needs quotes. The model sees the last 20. Of an item that is there twice the first place counts,
  unless the dataset keeps repeats. A history without items gets the most popular ones, marked
  "popular". A name in --history must fit one item; in a file, names that do not are skipped,
  counted and reported.

--histories FILE, by its content; .gz and .zst are unpacked:
  text           one history a line
  JSON lines     {"user": "u1", "items": ["I17", "I4"]}, or items as text with commas
  CSV, TSV       with a header: user and items (text with commas, in quotes), or one event a row:
                 user, item, and time; without a column of times the order of the file counts
  Parquet        the same columns; items may be a list
  Columns: user (user_id, customer, customer_id), items (item_ids, history), item (item_id), time
  (timestamp, date, datetime), or other ones with --columns user=buyer,item=sku. Events are read as
  `recllm prepare` reads interactions, with the same flags for separators, encodings and times.
  Without a user, a history is called by its line. Of several rows of one user with lists, the last
  one counts.

--out FILE:
  .parquet  one row a user and rank: user, rank (from 1), item (raw id), short_id, title, log_prob
            (of the model; empty for popular items), source ("model" or "popular"); flat, so that
            DuckDB, pandas and BigQuery load and join it without unnesting
  .jsonl    one line a user: user, ranked (a list of the same fields, best first)
  --with_history adds the history that was understood: raw ids, or items in .jsonl. Users come in
  the order of the dataset or the file. The file appears when it is complete. Until then parts lie
  in FILE.partial: the same command resumes a stopped job, and gives the same file.

examples:
  recllm recommend MODEL_DIR --data_dir ~/recllm_data \\
    --history "I17, I4, 'Toy Story'" --history "I3" -k 5
  recllm recommend MODEL_DIR --histories - --json < histories.txt
  recllm recommend MODEL_DIR --all_users --allow in_stock.txt --out recs.parquet
  recllm recommend MODEL_DIR --histories log.csv --columns user=buyer,item=sku,time=day \\
    --time_format '%d/%m/%Y' --out recs.jsonl
"""

# Paper §4.1; a larger `-k` widens the beam.
_NUM_BEAMS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", nargs="?", metavar="RUN", help="folder of a trained run")
    parser.add_argument("--checkpoint", metavar="RUN", help="another way to name the folder")
    parser.add_argument(
        "--history", action="append", default=[], metavar="ITEMS", help="one history; repeatable"
    )
    parser.add_argument(
        "--histories", metavar="FILE", help="histories, see below; - is standard input"
    )
    parser.add_argument(
        "--columns", metavar="ROLE=NAME,…", help="names of the columns of --histories, see below"
    )
    parser.add_argument(
        "--all_users",
        action="store_true",
        help="every user of the dataset as of the last event, into --out",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="write to a .parquet or .jsonl file, see below"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace --out, or another unfinished job's parts"
    )
    parser.add_argument(
        "--with_history", action="store_true", help="the history in the rows of --out, too"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="bad rows and unknown items of --histories are errors",
    )
    parser.add_argument("-k", "--k", type=int, default=10, help="number of items (10)")
    parser.add_argument(
        "--exclude_history",
        action=argparse.BooleanOptionalAction,
        help="whether to leave out items of the history (yes, unless the dataset keeps repeats)",
    )
    for name, what in (("allow", "recommend only items"), ("deny", "never recommend the items")):
        parser.add_argument(
            f"--{name}",
            metavar="FILE",
            help=f"{what} of a file, a short id or raw id a line, such as those in stock",
        )
    parser.add_argument(
        "--prior_weight",
        type=session.number_or_text,
        default=0.0,
        metavar="W",
        help="rank by log p(model) + W log p(item-to-item): a number, or 'validation' for the "
        "weight that `recllm eval --gin.PRIOR_WEIGHT=validation` chose (0)",
    )
    parser.add_argument(
        "--batch_size", type=int, default=32, metavar="N", help="histories decoded together (32)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per history")
    session.add_reading_arguments(parser)
    session.add_data_arguments(parser)


def run(args) -> int:
    _check(args)
    job = None
    if args.out is not None:
        from recllm_tasks.commands.recommend_file import Job

        job = Job(args.out, k=args.k, with_history=args.with_history, overwrite=args.overwrite)
    session.use_data_dir(args)
    session.register_tasks(args)
    from recllm_tasks.recommender import Recommender
    from recllm_tasks.runs.decoding import KEEP, LEAVE_OUT, Decoding

    seen = {None: None, True: LEAVE_OUT, False: KEEP}[args.exclude_history]
    decoding = Decoding(
        num_beams=max(args.k, _NUM_BEAMS),
        seen=seen,
        prior_weight=args.prior_weight,
        batch_size=args.batch_size,
        allow=args.allow,
        deny=args.deny,
    )
    with contextlib.ExitStack() as stack:
        path = None
        if args.histories is not None:
            path = stack.enter_context(_as_file(args.histories))
        recommender = Recommender.from_run(args.run_folder or args.checkpoint, decoding)
        if job is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _print(args, recommender, path, folder)
        elif path is None:
            _write_all_users(args, recommender, job)
        else:
            _write_histories(args, recommender, job, path)
    return 0


def _check(args) -> None:
    """Raises UserError for arguments that do not go together."""
    if (args.run_folder is None) == (args.checkpoint is None):
        got = "none" if args.run_folder is None else "two"
        raise UserError(
            f"Folder of the run: got {got}, expected one; write `recllm recommend RUN …` with the "
            "folder that `recllm train` wrote"
        )
    if args.k < 1:
        raise UserError(f"Number of items: got {args.k}, expected at least 1; correct -k")
    check_whole("--batch_size", args.batch_size, 1)
    given = [
        name
        for name, there in (
            ("--all_users", args.all_users),
            ("--histories", args.histories is not None),
            ("--history", args.history),
        )
        if there
    ]
    if not given:
        raise UserError(
            "Histories: got none, expected at least one; give --history or --histories, or "
            "--all_users with --out"
        )
    if args.all_users and (len(given) > 1 or args.out is None):
        got = f"also {given[1]}" if len(given) > 1 else "no --out"
        raise UserError(
            f"--all_users: got {got}, expected --out FILE and no other histories; correct the "
            "command"
        )
    if args.out is not None and args.history:
        raise UserError(
            "--out: got --history, expected --histories or --all_users; put the histories in a "
            "file, or leave out --out"
        )
    for name in ("overwrite", "with_history"):
        if getattr(args, name) and args.out is None:
            raise UserError(f"--{name}: got no --out, expected one; add --out FILE")
    for name in ("columns", "strict"):
        if getattr(args, name) and args.histories is None:
            raise UserError(f"--{name}: got no --histories, expected one; leave it out")


@contextlib.contextmanager
def _as_file(path: str) -> Iterator[Path]:
    """The file of that path, or one with what comes from standard input."""
    if path != "-":
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "stdin"
        with copy.open("wb") as f:
            shutil.copyfileobj(sys.stdin.buffer, f)
        yield copy


class _Question(NamedTuple):
    """A history to print recommendations for; `user` is None for one without a user's name."""

    user: str | None
    rows: list[int]


def _print(args, recommender, path: Path | None, folder: Path) -> None:
    """Prints recommendations for --history and --histories, as a table or JSON lines."""
    from recllm_tasks.commands.recommend_file import Counts
    from recllm_tasks.data.item_lookup import split_names
    from recllm_tasks.engine.evaluation import BATCHES_IN_CHUNK
    from recllm_tasks.report.terminal import print_recommendations

    lookup, counts = recommender.lookup, Counts()
    typed = [
        _Question(None, lookup.rows(split_names(text), f"--history {number}"))
        for number, text in enumerate(args.history, 1)
    ]
    lines, users, have_names = [], iter(()), False
    if path is not None:
        facts, users = _users_of(args, recommender, path, folder)
        lines, have_names = facts.lines(), facts.form != "text"

    def questions() -> Iterator[_Question]:
        yield from typed
        for user in users:
            counts.add(user, [], 0)
            yield _Question(user.name if have_names else None, list(user.rows))

    console, first = Console(highlight=False), True
    asked = questions()
    while chunk := list(itertools.islice(asked, BATCHES_IN_CHUNK * args.batch_size)):
        answers = recommender.recommend_rows([question.rows for question in chunk], args.k)
        for question, found in zip(chunk, answers):
            history = [recommender.catalog.names(row) for row in question.rows]
            ranked = [item._asdict() for item in found]
            if args.json:
                user = {} if question.user is None else {"user": question.user}
                line = {**user, "history": history, "ranked": ranked}
                sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
            else:
                console.print("\n" * (not first), end="")
                print_recommendations(history, ranked, console, question.user)
            first = False
    _report([*lines, *counts.lines(0)])


def _write_all_users(args, recommender, job) -> None:
    from recllm_tasks.prompts.source import LATEST

    source = recommender.source
    info = source.info()
    facts = {**recommender.identity(), "users": LATEST}
    with job.opened(facts):
        users = _dataset_users(recommender)
        counts = job.run(recommender, users, source.num_users(), args.batch_size)
    _report([*_left_out(info), *counts.lines(args.k)])


def _write_histories(args, recommender, job, path: Path) -> None:
    from recllm_tasks import checksums

    try:
        digest = checksums.sha256(path)
    except OSError as error:
        raise UserError(
            f"Histories in '{args.histories}': {error.strerror}; correct --histories"
        ) from error
    facts = {
        **recommender.identity(),
        "histories": digest,
        "columns": args.columns,
        "reading": dataclasses.asdict(session.reading_of(args)),
        "strict": args.strict,
    }
    with job.opened(facts):
        found, users = _users_of(args, recommender, path, job.folder)
        counts = job.run(recommender, users, found.users, args.batch_size)
    _report([*found.lines(), *counts.lines(args.k)])


def _dataset_users(recommender) -> Iterator:
    """All users of the dataset as of the last event."""
    from recllm_tasks.commands.recommend_file import User
    from recllm_tasks.prompts.source import LATEST

    for batch in recommender.source.evaluation_batches(LATEST).prefetch(1):
        for user, rows in zip(batch["user"].numpy().tolist(), batch["exclude"].to_list()):
            yield User(user.decode(), rows)


def _users_of(args, recommender, path: Path, folder: Path):
    """(what the file of --histories holds, its users); with --strict after looking at all of it."""
    from recllm_tasks.data import histories

    lookup = recommender.lookup
    shown = "standard input" if args.histories == "-" else args.histories
    facts = histories.take_in(
        path,
        folder,
        shown=shown,
        columns=args.columns,
        reading=session.reading_of(args),
        strict=args.strict,
    )
    if args.strict:
        for history in histories.read(folder, facts):
            lookup.rows(history.items, history.where)
    return facts, _file_users(lookup, histories.read(folder, facts))


def _file_users(lookup, found) -> Iterator:
    from recllm_tasks.commands.recommend_file import User

    for history in found:
        names = lookup.find(history.items, history.where)
        left_out = {
            kind: names_of_kind
            for kind, names_of_kind in (
                ("names that fit no item skipped", names.unknown),
                ("names that fit several items skipped", names.ambiguous),
                ("repeats of an item skipped", names.repeated),
            )
            if names_of_kind
        }
        examples = {kind: f"{of[0]!r} in {history.where}" for kind, of in left_out.items()}
        numbers = {kind: len(of) for kind, of in left_out.items()}
        yield User(history.user, names.rows, numbers, examples)


def _left_out(info) -> list[str]:
    """Which users and events of the log no record of the dataset holds, in lines for people."""
    found = []
    if info.short_users_dropped:
        found.append(
            f"{info.short_users_dropped:,} users of the log are not in the dataset, for lack of "
            "interactions; give their histories with --histories"
        )
    if info.split_counts and info.split_counts.unused:
        found.append(
            f"{info.split_counts.unused:,} interactions are in no record of the dataset, which is "
            "split by time; give the whole log with --histories to use them"
        )
    return found


def _report(lines: list[str]) -> None:
    from recllm_tasks.progress import console

    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
