"""Speed of a training step: ours, transformers, T5X and the hardware limit.

    tools/bench_train.py
    tools/bench_train.py --shape compact --competitors ours
    tools/bench_train.py --packed toys --data_dir ~/recllm_data --vocabulary t5.spiece.model

All competitors use the same random weights and batches, float32 and Adafactor. Each runs in a
separate process. They take turns, a different one starts each round, and the table shows medians.
A turn starts with an untimed step, which absorbs the cost of memory that another process used, and
continues with timed steps back to back, as in training: `--steps` of one batch, or the packed
batches. `transformers` trains in torch. `t5x` is T5X's step with its own network; it is skipped if
T5X cannot be imported (set T5X_DIR to a checkout). All use huge pages, as `recllm train` does. The
limit is the matmul FLOPs of a step at padded length, three times those of the forward pass, divided
by the peak of a large float32 matmul measured in the same run.

`--packed DATASET` compares useful tokens (without padding) on the dataset's UT+AT mixture, without
rating if the dataset has no ratings. Ours trains on packed rows, transformers on the same examples
in batches padded to their longest example.
"""

import argparse
import os
import statistics
import sys
import tempfile

import numpy as np
from bench_pipeline import set_up
from side_by_side import SHAPES, Worker, in_turn, matmul_gflops, processor, write_weights
from train_competitors import COMPETITORS

from recllm_tasks.commands import huge_pages


def main() -> None:
    args = _parse()
    found = [name for name in args.competitors if COMPETITORS[name].available()]
    for name in sorted(set(args.competitors) - set(found)):
        print(f"{name}: cannot be imported, skipped")
    with tempfile.TemporaryDirectory() as folder:
        if args.packed:
            _compare_packed(args, folder)
        else:
            sizes = {**SHAPES[args.shape], "vocab_size": args.vocabulary_size}
            write_weights(sizes, folder)
            for dropout in args.dropout:
                _compare(args, sizes, folder, dropout, found)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--batch", type=int, help="default: 8; 16 if compact")
    parser.add_argument("--inputs", type=int, help="tokens per input; default: 512; 16 if compact")
    parser.add_argument("--targets", type=int, help="tokens per target; default: 16; 64 if compact")
    parser.add_argument("--vocabulary_size", type=int, help="default: 32,128; 16,128 if compact")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps per turn")
    parser.add_argument("--competitors", nargs="+", choices=COMPETITORS, default=list(COMPETITORS))
    parser.add_argument("--packed", metavar="DATASET", help="a prepared dataset")
    parser.add_argument("--data_dir", help="where it was prepared")
    parser.add_argument("--vocabulary", help="SentencePiece model; default: the dataset's own")
    parser.add_argument("--packed_inputs", type=int, default=1024, help="tokens per packed row")
    parser.add_argument("--packed_targets", type=int, default=128)
    parser.add_argument("--rows", type=int, default=4, help="packed rows in a batch")
    args = parser.parse_args()
    # As runs/ids_sequence.gin trains on Toys, or prompts of the paper's form.
    names = ("batch", "inputs", "targets", "vocabulary_size")
    defaults = (16, 16, 64, 16_128) if args.shape == "compact" else (8, 512, 16, 32_128)
    for name, default in zip(names, defaults):
        setattr(args, name, getattr(args, name) or default)
    return args


def _workers(names, sizes: dict, folder: str, dropout: float) -> dict[str, Worker]:
    threads = len(os.sched_getaffinity(0))
    return {name: Worker(COMPETITORS[name], sizes, folder, dropout, threads) for name in names}


def _compare(args, sizes: dict, folder: str, dropout: float, names: list[str]) -> None:
    rng = np.random.default_rng(0)
    known = args.vocabulary_size - 128
    inputs = rng.integers(3, known, (args.batch, args.inputs)).astype(np.int32)
    targets = rng.integers(3, known, (args.batch, args.targets)).astype(np.int32)
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
    }
    workers = _workers(names, sizes, folder, dropout)
    work = {name: (worker, [batch] * args.steps) for name, worker in workers.items()}
    first, last, seconds, peak = _rounds(args, work)
    seconds = {name: of_a_turn / args.steps for name, of_a_turn in seconds.items()}
    flops = step_flops(sizes, args.batch, args.inputs, args.targets)
    tokens = args.batch * (args.inputs + args.targets)
    title = f"{args.shape}, {args.batch} x ({args.inputs} + {args.targets}), dropout {dropout:g}"
    print(f"\n{title}, {len(os.sched_getaffinity(0))} threads")
    head = ("competitor", "tokens/s", "ours is", "GFLOP/s", "of peak", "peak GiB", "first loss")
    print("{:14}{:>10}{:>9}{:>9}{:>9}{:>10}{:>12}".format(*head))
    for name in names:
        rate = flops / seconds[name] / 1e9
        ratio = seconds[name] / seconds["ours"] if "ours" in seconds else float("nan")
        print(
            f"{name:14}{tokens / seconds[name]:10.0f}{ratio:8.2f}x{rate:9.0f}{rate / peak:9.0%}"
            f"{last[name]['peak']:10.1f}{first[name]['loss']:12.5f}"
        )
    print(f"float32 matmul: {peak:.0f} GFLOP/s on {processor()}; {flops / 1e9:.0f} GFLOP a step")
    sys.stdout.flush()
    for worker in workers.values():
        worker.stop()


def _rounds(args, work: dict) -> tuple[dict, dict, dict, float]:
    """(first results, last results, median seconds per turn, peak GFLOP/s)."""
    first = {name: worker.run(batches) for name, (worker, batches) in work.items()}
    seconds, last, gflops = {name: [] for name in work}, {}, []
    for turn in range(args.rounds):
        gflops.append(matmul_gflops())
        for name, (worker, batches) in in_turn(work, turn):
            worker.run(batches[:1])
            last[name] = worker.run(batches)
            seconds[name].append(last[name]["seconds"])
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return first, last, medians, statistics.median(gflops)


def step_flops(sizes: dict, batch: int, inputs: int, targets: int) -> float:
    """Matmul FLOPs of forward and backward pass; the backward pass counts twice the forward."""
    s = sizes
    joined = s["num_heads"] * s["head_dim"]
    project, mlp = 2 * s["emb_dim"] * joined, 3 * 2 * s["emb_dim"] * s["mlp_dim"]
    encoder = inputs * (4 * project + mlp + 4 * inputs * joined)
    own = targets * (6 * project + mlp + 4 * (targets + inputs) * joined)
    decoder = own + inputs * 2 * project
    logits = targets * 2 * s["emb_dim"] * s["vocab_size"]
    layers = s["num_encoder_layers"] * encoder + s["num_decoder_layers"] * decoder
    return 3.0 * batch * (layers + logits)


def _compare_packed(args, folder: str) -> None:
    packed, padded, vocab_size = _real_batches(args)
    sizes = {**SHAPES[args.shape], "vocab_size": vocab_size}
    write_weights(sizes, folder)
    useful = sum(
        int((batch[name] > 0).sum())
        for batch in packed
        for name in ("encoder_input_tokens", "decoder_target_tokens")
    )
    for dropout in args.dropout:
        workers = _workers(("ours", "transformers"), sizes, folder, dropout)
        work = {
            "ours": (workers["ours"], packed),
            "transformers": (workers["transformers"], padded),
        }
        _, _, seconds, _ = _rounds(args, work)
        print(f"\n{args.packed} UT+AT, {args.shape}, dropout {dropout:g}: {useful} useful tokens")
        print(
            "{:14}{:>9}{:>17}{:>9}{:>9}".format(
                "competitor", "batches", "useful tokens/s", "useful", "ours is"
            )
        )
        for name, (_, batches) in work.items():
            places = sum(
                batch[key].size
                for batch in batches
                for key in ("encoder_input_tokens", "decoder_target_tokens")
            )
            rate, ratio = useful / seconds[name], seconds[name] / seconds["ours"]
            print(f"{name:14}{len(batches):9}{rate:17.0f}{useful / places:9.0%}{ratio:8.2f}x")
        sys.stdout.flush()
        for worker in workers.values():
            worker.stop()


def _real_batches(args) -> tuple[list, list, int]:
    """Two batches of packed rows, the same examples padded, and the vocabulary size."""
    from recllm_tasks import tasks
    from recllm_tasks.pipeline import training

    mixture = set_up(args.packed, args.data_dir, args.vocabulary)
    found = tasks.get(mixture)
    lengths = {"inputs": args.packed_inputs, "targets": args.packed_targets}
    stream = training.training_batches(mixture, lengths, args.rows, seed=0)
    packed = [next(stream) for _ in range(2)]
    examples = [pair for batch in packed for pair in _unpacked(batch)]
    # Shuffled as in an epoch; packing sorts examples by what fits into a row.
    order = np.random.default_rng(0).permutation(len(examples))
    examples = [examples[place] for place in order]
    padded = [
        _pad(examples[start : start + args.batch]) for start in range(0, len(examples), args.batch)
    ]
    size = found.output_features["targets"].vocabulary.vocab_size
    return packed, padded, -(-size // 128) * 128


def _unpacked(batch) -> list[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets) of every example in packed rows."""
    pairs = []
    for row, segments in enumerate(batch["decoder_segment_ids"]):
        inputs, targets = batch["encoder_input_tokens"][row], batch["decoder_target_tokens"][row]
        for number in range(1, segments.max() + 1):
            of_inputs = batch["encoder_segment_ids"][row] == number
            pairs.append((inputs[of_inputs], targets[segments == number]))
    return pairs


def _pad(pairs) -> dict[str, np.ndarray]:
    sides = []
    for tokens in zip(*pairs):
        rows = np.zeros((len(tokens), max(map(len, tokens))), np.int32)
        for row, one in zip(rows, tokens):
            row[: len(one)] = one
        sides.append(rows)
    inputs, targets = sides
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
    }


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    main()
