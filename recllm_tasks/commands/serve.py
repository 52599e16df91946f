"""`recllm serve`: an HTTP service and a page that recommend with a trained run."""

import argparse
import importlib.util
import os
import pathlib
import sys

from recllm_tasks.commands import session
from recllm_tasks.errors import UserError, check_number, check_whole

SUMMARY = "serve a trained model over HTTP, with a page to try it"
EPILOG = """\
The page is at http://127.0.0.1:8000/, the API at /docs; /healthz, /readyz and /metrics are for
operators. SIGTERM finishes what is in flight. Other machines are served with --host and
--token_file only; put a proxy with TLS in front.

lists:
  --list in_stock=FILE names a list: a short id or raw id a line. Requests restrict their answers
  with "allow_lists": ["in_stock"] or "deny_lists". A file that changes is read again within a
  second; replace it by renaming. Answers are the best of the items that are allowed.

examples:
  recllm serve /tmp/run --data_dir ~/recllm_data --list in_stock=/srv/in_stock.txt
  curl http://127.0.0.1:8000/v1/recommend -d '{"histories": [["I17", "I4"]], "k": 5}'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="the run's folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (8000)")
    parser.add_argument(
        "--token_file", metavar="FILE", help="its first line is what clients send as Bearer token"
    )
    parser.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a list of items that requests name; repeatable",
    )
    parser.add_argument("-k", type=int, default=20, help="most items for a history, and beams (20)")
    parser.add_argument(
        "--prior_weight",
        type=session.number_or_text,
        default=0.0,
        metavar="W",
        help="as in `recllm recommend` (0)",
    )
    parser.add_argument(
        "--batch_size", type=int, default=32, help="histories decoded together (32)"
    )
    parser.add_argument(
        "--queue", type=int, default=1024, help="histories that may wait; more get 429 (1024)"
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, help="seconds that a request may take (30)"
    )
    parser.add_argument(
        "--log_bodies", action="store_true", help="log what clients ask for; by default never"
    )
    session.add_data_arguments(parser)


def run(args) -> int:
    _check(args)
    from recllm_tasks.recommender import Recommender
    from recllm_tasks.runs.decoding import Decoding
    from recllm_tasks.serve import server
    from recllm_tasks.serve.app import Service, Settings
    from recllm_tasks.serve.item_lists import ItemLists

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    files, token = _lists(args.list), _token(args.token_file) if args.token_file else None
    listening = server.open_socket(args.host, args.port, token is not None)
    with listening:
        session.use_data_dir(args)
        session.register_tasks(args)
        decoding = Decoding(num_beams=args.k, prior_weight=args.prior_weight)
        recommender = Recommender.from_run(args.run_dir, decoding, batch_size=args.batch_size)
        lists = ItemLists(files, recommender.catalog, say)
        settings = Settings(args.batch_size, args.queue, args.timeout, token, args.log_bodies)
        service = Service(recommender, lists, settings, say)
        listening.listen()
        host, port = listening.getsockname()[:2]
        say(f"serving {args.run_dir} at http://{f'[{host}]' if ':' in host else host}:{port}/")
        server.run(service, listening)
    return 0


def _check(args) -> None:
    needed = ("httptools", "prometheus_client", "starlette", "uvicorn", "uvloop")
    missing = [name for name in needed if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(
            f"Packages for 'recllm serve': got no {' and no '.join(missing)}, expected all; run "
            "`pip install 'recllm_tasks[serve]'`"
        )
    check_whole("-k", args.k, 1)
    check_whole("--batch_size", args.batch_size, 1)
    check_whole("--queue", args.queue, 256)
    check_number("--timeout", args.timeout, 1)
    check_whole("--port", args.port, 0, 65_535)


def _token(path: str) -> str:
    try:
        lines = pathlib.Path(os.path.expanduser(path)).read_text(encoding="ascii").split("\n")
    except OSError as error:
        raise UserError(f"Token in '{path}': {error.strerror}; correct --token_file") from error
    except UnicodeDecodeError:
        lines = [""]
    token = lines[0].strip()
    if len(token) < 16:
        raise UserError(
            f"Token in '{path}': got {len(token)} characters, expected at least 16, in ASCII; make "
            "one with `openssl rand -hex 32`"
        )
    return token


def _lists(arguments: list[str]) -> dict[str, str]:
    files = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not name.isidentifier() or not equals or name in files:
            raise UserError(
                f"List '{argument}': got no new name, expected NAME=FILE such as "
                "in_stock=/srv/in_stock.txt; correct --list"
            )
        files[name] = os.path.expanduser(path)
    return files
