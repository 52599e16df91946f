"""`recllm export`: a run's beam search as a program for JAX alone."""

import argparse

from recllm_tasks.commands import session
from recllm_tasks.errors import check_whole

SUMMARY = "write a trained model's beam search as a program that needs JAX alone"
EPILOG = """\
The folder gets search.stablehlo (for CPU, CUDA and TPU), arrays.npz (parameters and trie),
items.jsonl (the item of each row), example.npz (a real prompt, and its beams) and export.json. The
program is for one shape and without the item-to-item prior; prompts are token ids, padded with 0 to
its length, on the right for inputs and on the left for beginning.

in a process that has only JAX:
  import jax, jax.export, numpy as np
  search = jax.export.deserialize(open("search.stablehlo", "rb").read()).call
  arrays, example = (dict(np.load(f"{name}.npz")) for name in ("arrays", "example"))
  given = [example[name] for name in ("inputs", "beginning", "bits", "before") if name in example]
  tokens, log_probs, rows = search(arrays, *given)

examples:
  recllm export /tmp/run --data_dir ~/recllm_data --output /tmp/exported --batch_size 8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="the run's folder")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--batch_size", type=int, default=1, help="prompts of a call (1)")
    parser.add_argument("-k", type=int, default=20, help="beams (20)")
    session.add_data_arguments(parser)


def run(args) -> int:
    check_whole("--batch_size", args.batch_size, 1)
    check_whole("-k", args.k, 1)
    session.use_data_dir(args)
    session.register_tasks(args)
    from recllm_tasks.progress import console
    from recllm_tasks.recommender import Recommender
    from recllm_tasks.runs.decoding import Decoding

    decoding = Decoding(num_beams=args.k)
    recommender = Recommender.from_run(args.run_dir, decoding, batch_size=args.batch_size)
    recommender.export(args.output)
    console.print(f"{args.run_dir} → {args.output}", markup=False)
    return 0
