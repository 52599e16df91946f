"""Time of a beam search that is restricted to a list of items, beside the same search without one.

    tools/bench_lists.py --items 12000 10000000

Catalogs are synthetic ids of three tokens, of 216 each. Every example of a batch has a list of its
own. The searches take turns, and the table shows medians; "mask" is the time to make one list's
mask, which a service does once for each list, and "batch" that to join a batch's masks, which is in
the others. The ratios are of wall time, and of processor time, which other programs disturb less.
"""

import argparse
import statistics
import time

import jax
import numpy as np
from side_by_side import SHAPES

from recllm_tasks.models.beam_search import beam_search
from recllm_tasks.models.item_mask import ItemMask
from recllm_tasks.models.network import T5Config, Transformer
from recllm_tasks.models.trie import Trie


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 10_000_000])
    parser.add_argument("--listed", type=int, nargs="+", default=[10, 1000, 100_000, 10_000_000])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    sizes = {**SHAPES[args.shape], "vocab_size": 32_128}
    model, token = Transformer(T5Config(dropout_rate=0.0, **sizes)), np.ones((1, 1), np.int32)
    params = model.init(jax.random.key(0), token, token, token, enable_dropout=False)["params"]
    prompts = np.asarray(
        jax.random.randint(jax.random.key(1), (args.batch, args.length), 3, 32_000)
    )
    print(f"{args.shape}, inputs {args.length}, batch {args.batch}, beam 20")
    heads = ("items", "listed", "mask ms", "batch ms", "search ms", "wall", "CPU")
    print("{:>12}{:>12}{:>10}{:>10}{:>11}{:>8}{:>8}".format(*heads))
    for items in args.items:
        rows = np.random.Generator(np.random.Philox(2)).permutation(items)
        digits = np.stack([10 + rows // 216**level % 216 for level in (2, 1, 0)], axis=1)
        trie = Trie.from_tokens(digits.reshape(-1).astype(np.int32), 3 * np.arange(items + 1))
        compare(args, model, params, prompts, trie, jax.device_put(trie))


def compare(args, model, params, prompts, trie: Trie, on_device: Trie) -> None:
    rng, masks, making = np.random.Generator(np.random.Philox(3)), {None: None}, {None: 0.0}
    for size in sorted({min(size, trie.num_items) for size in args.listed}):
        own = []
        for _ in range(args.batch):
            allowed = np.zeros(trie.num_items, bool)
            allowed[rng.choice(trie.num_items, size, replace=False, shuffle=False)] = True
            start = time.perf_counter()
            own.append(ItemMask.of(trie, allowed))
            making[size] = time.perf_counter() - start
        masks[size] = own
    seconds = {size: [] for size in masks}
    processor = {size: [] for size in masks}
    joining = {size: [] for size in masks}
    for turn in range(args.rounds + 1):  # the first round compiles
        order = list(masks.items())
        for size, own in order[turn % len(order) :] + order[: turn % len(order)]:
            start, used = time.perf_counter(), time.process_time()
            batch = ItemMask.stack(own) if own else None
            joined = time.perf_counter()
            beams = beam_search(model, params, prompts, on_device, num_beams=20, allowed=batch)
            jax.block_until_ready(beams)
            if turn:
                seconds[size].append(time.perf_counter() - start)
                processor[size].append(time.process_time() - used)
                joining[size].append(joined - start)
    plain, plain_used = (statistics.median(taken[None]) for taken in (seconds, processor))
    for size, found in seconds.items():
        took, joined = statistics.median(found), statistics.median(joining[size])
        listed = "none" if size is None else f"{size:,}"
        print(
            f"{trie.num_items:>12,}{listed:>12}{making[size] * 1e3:>10.1f}{joined * 1e3:>10.1f}"
            f"{took * 1e3:>11.0f}{took / plain:>8.2f}"
            f"{statistics.median(processor[size]) / plain_used:>8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
