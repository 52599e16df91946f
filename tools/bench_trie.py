"""What the trie of a catalog costs: time, memory and disk.

    tools/bench_trie.py --vocabulary t5.spiece.model --items 12000 20000 10000000

Catalogs are synthetic, of short ids I1, I2, …, made while they are encoded. Every size runs in
processes of its own: one encodes, builds and saves, one loads, one decodes. Seconds are of the wall
clock, and in brackets of the processor, all threads together. Memory is the peak over what the
imports take; what a loaded trie takes are pages of the file, which the system may drop. Decoding
is that of T5-small's shape with random weights: 8 users, 256 tokens, beam 20; the sizes take turns,
and the medians are shown.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path


class Stopwatch:
    """Wall and processor seconds of named steps, as text."""

    def __init__(self):
        self.seconds = {}

    def __call__(self, name, function, *arguments):
        wall, cpu = time.perf_counter(), _cpu()
        result = function(*arguments)
        wall, cpu = time.perf_counter() - wall, _cpu() - cpu
        self.seconds[name] = f"{wall:.2f} ({cpu:.2f})"
        return result


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build(num_items: int, vocabulary_file: str, path: Path) -> dict[str, str]:
    import seqio

    from recllm_tasks.engine import trie_file
    from recllm_tasks.models.trie import Trie
    from recllm_tasks.prompts.token_table import encode

    vocabulary = seqio.SentencePieceVocabulary(vocabulary_file, extra_ids=100)
    vocabulary.encode("I1")
    imports, watch = _peak_mb(), Stopwatch()
    ids = (f"I{row + 1}" for row in range(num_items))
    tokens = watch("encode", encode, ids, vocabulary)
    encoded = _peak_mb()
    trie = watch("build", Trie.from_tokens, *tokens, vocabulary.eos_id)
    watch("save", trie_file.save, trie, path)
    return {
        **watch.seconds,
        "nodes": str(trie.num_nodes),
        "MB, encode": f"{encoded - imports:.0f}",
        "MB, all": f"{_peak_mb() - imports:.0f}",
        "MB, disk": f"{os.path.getsize(path) / 1e6:.0f}",
    }


def load(path: Path) -> dict[str, str]:
    from recllm_tasks.engine import trie_file

    imports, watch = _peak_mb(), Stopwatch()
    assert watch("load", trie_file.load, path) is not None
    return {**watch.seconds, "MB, load": f"{_peak_mb() - imports:.0f}"}


def serve_searches(path: Path, pipe) -> None:
    """Answers every message with the seconds that one batch takes."""
    import jax
    import numpy as np
    from decode_competitors import BEAMS
    from side_by_side import SHAPES

    from recllm_tasks.engine import trie_file
    from recllm_tasks.models.beam_search import beam_search
    from recllm_tasks.models.network import T5Config, Transformer

    model = Transformer(T5Config(vocab_size=32_128, dropout_rate=0.0, **SHAPES["small"]))
    token = np.ones((1, 1), np.int32)
    params = model.init(jax.random.key(0), token, token, token, enable_dropout=False)["params"]
    trie = jax.device_put(trie_file.load(path))
    prompts = np.asarray(jax.random.randint(jax.random.key(1), (8, 256), 3, 32_000))
    while pipe.recv():
        start = time.perf_counter()
        jax.block_until_ready(beam_search(model, params, prompts, trie, num_beams=BEAMS))
        pipe.send(time.perf_counter() - start)


def compare_searches(context, paths: dict[int, Path], rounds: int) -> None:
    """Prints what decoding takes with each catalog, beside the first one's."""
    pipes, processes, seconds = {}, {}, {}
    for size, path in paths.items():
        pipes[size], theirs = context.Pipe()
        processes[size] = context.Process(target=serve_searches, args=(path, theirs))
        processes[size].start()
    for number in range(rounds + 1):  # the first one compiles
        for size, pipe in pipes.items():
            pipe.send(True)
            found = pipe.recv()
            if number:
                seconds.setdefault(size, []).append(found)
    medians = {size: statistics.median(found) for size, found in seconds.items()}
    first = next(iter(medians.values()))
    for size, median in medians.items():
        found = f"{8 / median:.2f} users/s, {median / first:.2f}x the time"
        print(f"decoding over {size:,} items: {found}")
        pipes[size].send(False)
        processes[size].join()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", required=True, help="a SentencePiece model")
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 20_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=5, help="of decoding; 0: none")
    args = parser.parse_args()
    columns = ("items", "nodes", "encode", "build", "save", "load")
    columns += ("MB, encode", "MB, all", "MB, load", "MB, disk")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("".join(f"{name:>16}" for name in columns), flush=True)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for num_items in args.items:
            path = Path(folder) / f"{num_items}.npy"
            row = {"items": str(num_items)}
            with context.Pool(1) as pool:
                row |= pool.apply(build, (num_items, args.vocabulary, path))
            with context.Pool(1) as pool:
                row |= pool.apply(load, (path,))
            print("".join(f"{row[name]:>16}" for name in columns), flush=True)
        if args.rounds:
            paths = {size: Path(folder) / f"{size}.npy" for size in args.items}
            compare_searches(context, paths, args.rounds)


if __name__ == "__main__":
    main()
