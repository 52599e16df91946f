"""Time to evaluate every test user, end to end: `recllm eval` compared with transformers.

    tools/bench_evaluation.py --dataset toys --data_dir ~/recllm_data
    tools/bench_evaluation.py --dataset toys --data_dir ~/recllm_data --their_users 2048

Both use the same random weights of the tiny shape, the same retrieval prompts, beam 20 over the
same trie, and float32. Ours is a whole evaluation: building prompts, compiling, decoding
and metrics. For transformers, only `generate` is timed, on the same batches padded to the
same lengths; with `--their_users`, on batches spread evenly over the lengths.
"""

import argparse
import tempfile
import time

import numpy as np
from bench_decode import make_work
from decode_competitors import BEAMS, COMPETITORS
from side_by_side import SHAPES, our_params

BATCH = 32
LENGTHS = {"inputs": 512, "targets": 64}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="toys", help="a prepared dataset")
    parser.add_argument("--data_dir", required=True, help="where it was prepared")
    parser.add_argument("--vocabulary", help="SentencePiece model; default: the dataset's own")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--their_users", type=int, help="users for transformers; default: all")
    parser.add_argument("--num_examples", type=int, help="test users; default: all")
    args = parser.parse_args()
    args.length, args.batch = [LENGTHS["inputs"]], [BATCH]
    with tempfile.TemporaryDirectory() as folder:
        work = make_work(args, folder)
        seconds, parts, metrics = _ours(args, work)
        users = _prompts(args)
        theirs, number = _theirs(args, work, users)
    print(f"{len(users)} users of {args.dataset}, {args.shape}, beam {BEAMS}, batch {BATCH}")
    print(f"{'':14}{'seconds':>9}{'users/s':>9}")
    print(f"{'ours':14}{seconds:9.1f}{len(users) / seconds:9.1f}   {parts}")
    rate = number / theirs
    print(f"{'transformers':14}{len(users) / rate:9.1f}{rate:9.1f}   {number} users decoded")
    print(f"ours is {len(users) / seconds / rate:.2f}x; hr@10 {metrics['hr@10']:.4f}")


def _ours(args, work) -> tuple[float, str, dict]:
    from recllm_tasks import tasks
    from recllm_tasks.engine import devices, evaluation
    from recllm_tasks.models import network
    from recllm_tasks.runs.decoding import Decoding

    params = our_params(work.sizes, work.weights)
    task = tasks.get(f"{args.dataset}_retrieval")
    start = time.perf_counter()
    measured = evaluation.Evaluation(
        [task],
        "test",
        network.Transformer(network.T5Config(dropout_rate=0.0, **work.sizes)),
        devices.make_mesh(),
        LENGTHS,
        Decoding(num_beams=BEAMS, batch_size=BATCH),
        num_examples=args.num_examples,
    )
    ready = time.perf_counter()
    metrics = measured.run(params)[task.name]
    seconds = time.perf_counter() - start
    decoding = measured.seconds[task.name]
    parts = f"examples {ready - start:.1f}, decoding {decoding:.1f}, "
    return seconds, parts + f"the rest {seconds - decoding - (ready - start):.1f}", metrics


def _prompts(args) -> list[np.ndarray]:
    from recllm_tasks import tasks

    dataset = tasks.get(f"{args.dataset}_retrieval").get_dataset(
        LENGTHS, split="test", shuffle=False
    )
    dataset = dataset.take(args.num_examples or -1)
    return [example["inputs"] for example in dataset.as_numpy_iterator()]


def _theirs(args, work, users: list[np.ndarray]) -> tuple[float, int]:
    """(seconds, users decoded)."""
    from recllm_tasks.engine.decoding import padded_length

    competitor = COMPETITORS["transformers"](work)
    users = sorted(users, key=len)
    batches = [users[start : start + BATCH] for start in range(0, len(users), BATCH)]
    wanted = min(len(batches), -(-(args.their_users or len(users)) // BATCH))
    chosen = [batches[place] for place in np.linspace(0, len(batches) - 1, wanted).astype(int)]
    seconds = number = 0
    for batch in chosen:
        prompts = np.zeros((len(batch), padded_length(len(batch[-1]))), np.int32)
        for row, tokens in zip(prompts, batch):
            row[: len(tokens)] = tokens
        start = time.perf_counter()
        competitor.run(prompts)
        seconds += time.perf_counter() - start
        number += len(batch)
    return seconds, number


if __name__ == "__main__":
    main()
