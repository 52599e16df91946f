"""What the trie of a catalog costs: time, memory and disk.

    tools/bench_trie.py --vocabulary t5.spiece.model --items 20000 1000000 10000000

Catalogs are synthetic, of short ids I1, I2, …, made while they are encoded. Every size runs in two
processes of its own: one encodes, builds and saves, one loads. Seconds are of the wall clock, and
in brackets of the processor, all threads together. Memory is the peak over what the imports take;
what a loaded trie takes are pages of the file, which the system may drop.
"""

import argparse
import multiprocessing
import os
import resource
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", required=True, help="a SentencePiece model")
    parser.add_argument("--items", type=int, nargs="+", default=[20_000, 1_000_000, 10_000_000])
    args = parser.parse_args()
    columns = ("items", "nodes", "encode", "build", "save", "load")
    columns += ("MB, encode", "MB, all", "MB, load", "MB, disk")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("".join(f"{name:>16}" for name in columns), flush=True)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for num_items in args.items:
            path = Path(folder) / "trie.npy"
            row = {"items": str(num_items)}
            with context.Pool(1) as pool:
                row |= pool.apply(build, (num_items, args.vocabulary, path))
            with context.Pool(1) as pool:
                row |= pool.apply(load, (path,))
            print("".join(f"{row[name]:>16}" for name in columns), flush=True)


if __name__ == "__main__":
    main()
