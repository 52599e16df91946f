"""Users per second of constrained beam search: ours, other libraries and the hardware limit.

    tools/bench_decode.py --dataset toys --data_dir ~/recllm_data --vocabulary t5.spiece.model
    tools/bench_decode.py --shape tiny --batch 32 --length 256 512

All competitors use the same random weights, the same real retrieval prompts, beam 20 and float32.
Each runs in a separate process, so that its peak memory can be measured. They take turns, a
different one starts each round, and the table shows medians. Competitors: `ours`; `transformers`
(torch, `generate` with `prefix_allowed_tokens_fn` over the same trie); `t5x` (its own network and
beam search, 8 new tokens, no trie); `ctranslate2` (8 new tokens, no trie). The last two are skipped
if they cannot be imported: set T5X_DIR to a checkout of T5X; `pip install ctranslate2`.

The limit is the matmul FLOPs of each search at padded length, divided by the peak of a large
float32 matmul measured in the same run.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time

import numpy as np
from decode_competitors import BEAMS, COMPETITORS, Work
from side_by_side import SHAPES, Worker, in_turn, matmul_gflops, peak_gib, processor, write_weights

from recllm_tasks.runs import memory


def main() -> None:
    args = _parse()
    with tempfile.TemporaryDirectory() as folder:
        work = make_work(args, folder)
        found = [name for name in args.competitors if COMPETITORS[name].available()]
        for name in sorted(set(args.competitors) - set(found)):
            print(f"{name}: cannot be imported, skipped")
        workers = {name: Worker(_Timed, name, work) for name in found}
        for length in args.length:
            for batch in args.batch:
                _compare(args, work, workers, length, batch)
        for worker in workers.values():
            worker.stop()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="toys", help="a prepared dataset")
    parser.add_argument("--data_dir", required=True, help="where it was prepared")
    parser.add_argument("--vocabulary", help="SentencePiece model; default: the dataset's own")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--length", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--competitors", nargs="+", choices=COMPETITORS, default=list(COMPETITORS))
    return parser.parse_args()


def make_work(args, folder: str) -> Work:
    os.environ["TFDS_DATA_DIR"] = args.data_dir
    import gin

    from recllm_tasks import tasks

    if args.vocabulary:
        gin.bind_parameter("vocabulary.sentencepiece_file.path", args.vocabulary)
    task = tasks.get(f"{args.dataset}_retrieval")
    vocabulary = task.output_features["targets"].vocabulary
    prompts = {}
    for length in args.length:
        dataset = task.get_dataset({"inputs": length, "targets": 64}, split="test", shuffle=False)
        rows = np.zeros((max(args.batch), length), np.int32)
        for row, example in zip(rows, dataset.take(len(rows)).as_numpy_iterator()):
            row[: len(example["inputs"])] = example["inputs"]
        prompts[length] = rows
    items = [tuple(vocabulary.encode(text)) for text in tasks.answers(task)]
    sizes = {**SHAPES[args.shape], "vocab_size": -(-vocabulary.vocab_size // 128) * 128}
    write_weights(sizes, folder)
    return Work(sizes, folder, prompts, items, len(os.sched_getaffinity(0)))


class _Timed:
    """A competitor that times itself in its own process."""

    def __init__(self, name: str, work: Work):
        self._competitor, self._work = COMPETITORS[name](work), work

    def run(self, length: int, batch: int) -> dict:
        memory.reset_peak()
        start = time.perf_counter()
        beams = self._competitor.run(self._work.prompts[length][:batch])
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "beams": beams, "peak": peak_gib()}


def _compare(args, work: Work, workers: dict, length: int, batch: int) -> None:
    first = {name: worker.run(length, batch) for name, worker in workers.items()}
    seconds = {name: [] for name in workers}
    gflops = []
    last = {}
    for turn in range(args.rounds):
        gflops.append(matmul_gflops())
        for name, worker in in_turn(workers, turn):
            last[name] = worker.run(length, batch)
            seconds[name].append(last[name]["seconds"])
    peak = statistics.median(gflops)
    rate = {name: batch / statistics.median(times) for name, times in seconds.items()}
    print(f"\n{args.shape}, inputs {length}, batch {batch}, beam {BEAMS}, {work.threads} threads")
    head = (
        "competitor",
        "users/s",
        "ours is",
        "of limit",
        "limit",
        "peak GiB",
        "warm-up s",
        "scores",
    )
    print("{:18}{:>9}{:>9}{:>10}{:>9}{:>10}{:>11}{:>10}".format(*head))
    for name in workers:
        limit = peak * 1e9 / COMPETITORS[name].flops(work, length)
        ratio = rate["ours"] / rate[name] if "ours" in rate else float("nan")
        print(
            f"{name:18}{rate[name]:9.2f}{ratio:8.2f}x{rate[name] / limit:9.0%}{limit:9.1f}"
            f"{last[name]['peak']:10.1f}{first[name]['seconds']:11.1f}"
            f"{_difference(last, name):>10}"
        )
    print(f"float32 matmul: {peak:.0f} GFLOP/s on {processor()}")
    sys.stdout.flush()


def _difference(last: dict, name: str) -> str:
    """Largest difference from transformers' log-probabilities, over the items that both found.

    transformers drops items that end outside the best 20 of a step (ids have different lengths).
    The difference is infinite if it found an item that we lack and that beats our last item.
    """
    if not COMPETITORS[name].comparable or "transformers" not in last:
        return "–"
    worst = 0.0
    for mine, theirs in zip(last[name]["beams"], last["transformers"]["beams"]):
        for tokens, score in theirs.items():
            if tokens in mine:
                worst = max(worst, abs(score - mine[tokens]))
            elif score > min(mine.values()) + 1e-3:
                worst = float("inf")
    return f"{worst:.0e}"


if __name__ == "__main__":
    main()
