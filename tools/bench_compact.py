"""Sequences of ids against RecBole's SASRec, CE: training and full-ranking evaluation, in turns.

    launch/install_baselines.sh
    tools/bench_compact.py --data_dir ~/recllm_data        # toys, prepared with --ids atomic

Both train on the same interactions with all cores. An example is an item with the history before
it: RecBole makes a row of each, ours learns from all items of a sequence in one pass. Ours is
models/ids.gin with runs/ids_sequence.gin; RecBole has its default sizes and the row's batch (1,024
examples), with autograd's anomaly mode off. Reading, shuffling and packing count in both. The limit
is the matmul FLOPs of a step divided by the peak of a large float32 matmul measured in the same
run. Evaluation is that of every test user among all items, seen items left out: ours is `recllm
eval`'s, with 20 beams, prompts and metrics, RecBole's its own. The first evaluation of ours
compiles, the second does not.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from bench_train import step_flops
from side_by_side import SHAPES, Worker, in_turn, matmul_gflops, processor

from recllm_tasks.commands import huge_pages

SETTINGS = ("models/ids.gin", "runs/finetune.gin", "runs/ids_sequence.gin")

_COLUMNS = ["user_id", "item_id", "timestamp"]

# Users together in our evaluation, as in `recllm eval`.
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="toys", help="prepared with --ids atomic")
    parser.add_argument("--data_dir", required=True, help="where it was prepared")
    parser.add_argument("--recbole_python", help="default: that of .venv-baselines")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of training in a turn, about")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        competitors = {"ours": Worker(_Ours, args), "RecBole": _RecBole(args, Path(folder))}
        batches = {name: _calibrate(one, args.seconds) for name, one in competitors.items()}
        rates, limits = {name: [] for name in competitors}, []
        for turn in range(args.rounds):
            limits.append(matmul_gflops())
            for name, one in in_turn(competitors, turn):
                one.run({"train": 2})
                found = one.run({"train": batches[name]})
                rates[name].append(found)
        evaluated = {name: [] for name in competitors}
        for turn in range(3):
            for name, one in in_turn(competitors, turn):
                evaluated[name].append(one.run({"evaluate": True}))
        for one in competitors.values():
            one.stop()
    _print(args, rates, evaluated, statistics.median(limits))


def _calibrate(competitor, seconds: float) -> int:
    """Batches that take about so long."""
    competitor.run({"train": 5})
    found = competitor.run({"train": 5})
    return max(1, round(5 * seconds / found["seconds"]))


def _print(args, rates: dict, evaluated: dict, peak: float) -> None:
    def median(name: str, key: str) -> float:
        return statistics.median(found[key] / found["seconds"] for found in rates[name])

    cores = len(os.sched_getaffinity(0))
    print(f"\n{args.dataset}, {cores} cores of {processor()}; float32 matmul {peak:.0f} GFLOP/s\n")
    print(f"{'training':16}{'examples/s':>12}{'ours is':>9}{'of peak':>9}")
    for name in rates:
        rate, ours = median(name, "number"), median("ours", "number")
        share = f"{median(name, 'flops') / 1e9 / peak:9.0%}" if name == "ours" else ""
        print(f"{name:16}{rate:12,.0f}{ours / rate:8.2f}x{share}")
    print(f"\n{'evaluation':16}{'users':>12}{'seconds':>9}{'ours takes':>12}")
    theirs = statistics.median(found["seconds"] for found in evaluated["RecBole"])
    rows = {
        "ours, first": evaluated["ours"][0]["seconds"],
        "ours": statistics.median(found["seconds"] for found in evaluated["ours"][1:]),
        "RecBole": theirs,
    }
    for name, seconds in rows.items():
        users = evaluated["ours"][0]["number"]
        print(f"{name:16}{users:12,}{seconds:9.1f}{seconds / theirs:11.2f}x")


class _Ours:
    """The engine: its stream of batches, its step, its evaluation."""

    def __init__(self, args: argparse.Namespace):
        import gin
        import jax
        import seqio

        import recllm_tasks.mixtures  # noqa: F401
        from recllm_tasks import gin_files, tasks
        from recllm_tasks.engine import devices, initial_state, train_step
        from recllm_tasks.models.network import Transformer
        from recllm_tasks.pipeline.training import training_batches

        seqio.set_tfds_data_dir_override(os.path.expanduser(args.data_dir))
        given = [f"DATASET='{args.dataset}'", "MODEL_DIR='unused'"]
        gin_files.parse(SETTINGS, given, "training.train")
        self._lengths = gin.query_parameter("%TASK_FEATURE_LENGTHS")
        rows = gin.query_parameter("%BATCH_SIZE")
        config = gin.get_configurable("network.T5Config")()
        self._network = Transformer(config)
        self._optimizer = gin.get_configurable("optimizer.adamw")()
        self._task = tasks.get(f"{args.dataset}_ids_sequence")
        self._mesh = devices.make_mesh()
        self._split = devices.split_batch(self._mesh)
        self._state = initial_state.random_state(
            self._network, self._optimizer, self._mesh, 0, 0, None, 0.02
        )
        self._stream = training_batches(self._task.name, self._lengths, rows, 0)
        self._key, self._put, self._step = jax.random.key(0), devices.put, train_step.train_step
        sizes = {name: getattr(config, name) for name in SHAPES["tiny"]}
        sizes["vocab_size"] = config.vocab_size
        inputs, targets = (self._lengths[side] for side in ("inputs", "targets"))
        self._flops = step_flops(sizes, rows, inputs, targets)

    def run(self, request: dict) -> dict:
        start = time.perf_counter()
        if "train" in request:
            number = sum(self._train_one() for _ in range(request["train"]))
            flops = self._flops * request["train"]
        else:
            number, flops = self._evaluate(), 0
        return {"number": number, "seconds": time.perf_counter() - start, "flops": flops}

    def _train_one(self) -> int:
        """The number of items that were learned with a history before them."""
        batch = next(self._stream)
        targets, segments = batch["decoder_target_tokens"], batch["decoder_segment_ids"]
        examples = int((targets > 0).sum() - segments.max(axis=1).sum())
        self._state, measures = self._step(
            self._network, self._optimizer, self._state, self._put(batch, self._split), self._key
        )
        float(measures.loss)
        return examples

    def _evaluate(self) -> int:
        from recllm_tasks.engine import evaluation
        from recllm_tasks.runs.decoding import Decoding

        measured = evaluation.Evaluation(
            [self._task],
            "test",
            self._network,
            self._mesh,
            self._lengths,
            Decoding(num_beams=20, batch_size=BATCH),
        )
        measured.run(self._state.params)
        return self._task.source.num_input_examples("test")


class _RecBole:
    """`recbole_worker.py` in RecBole's environment."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        import seqio

        from recllm_tasks.baselines.interactions import Splits
        from recllm_tasks.baselines.recbole import models, training

        seqio.set_tfds_data_dir_override(os.path.expanduser(args.data_dir))
        evaluated = Splits(args.dataset, "test").evaluated
        log = folder / "log" / "log.inter"
        log.parent.mkdir()
        with open(log, "w") as f:
            f.write("user_id:token\titem_id:token\ttimestamp:float\n")
            for user, (history, target) in enumerate(
                zip(evaluated.history_items, evaluated.targets)
            ):
                for place, item in enumerate([*history.tolist(), target]):
                    f.write(f"{user}\t{item}\t{place}\n")
        settings = {**models.MODELS["sasrec_ce"].config, "load_col": {"inter": _COLUMNS}}
        settings["threads"] = len(os.sched_getaffinity(0))
        worker = Path(__file__).with_name("recbole_worker.py")
        self._process = subprocess.Popen(
            [training.find_python(args.recbole_python), "-I", worker, folder, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def run(self, request: dict) -> dict:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("RecBole's process ended; see its messages above")
        return json.loads(line)

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait()


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    main()
