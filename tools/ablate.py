"""What each choice of the recipe is worth: one table, one budget, several seeds.

    tools/ablate.py toys --raw_dir downloads/toys_and_games --out ablation

Each row changes one thing of models/ids.gin with runs/ids_sequence.gin and trains from scratch for
`--minutes` of one core: steps are measured for each row at the first call and kept in
OUT/steps.json, so that another call makes the same runs. Two runs go side by side, one a core. The
checkpoint with the best validation NDCG@10 is measured on all test users, seen items left out. Run
again, it goes on where it stopped.
"""

import argparse
import concurrent.futures
import json
import os
import queue
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from recllm_tasks.report import curves

_RECLLM = Path(sys.executable).with_name("recllm")
_SETTINGS = ("models/ids.gin", "runs/finetune.gin", "runs/ids_sequence.gin")
_TITLES = {"inputs": 512, "targets": 16}
_IDS = {"inputs": 64, "targets": 8}
# Sequences beside prompts with titles; and beside prompts of ids.
_AND_TITLES = {"inputs": 512, "targets": 256}
_AND_IDS = {"inputs": 64, "targets": 64}
# Sequences of ids that are several tokens long.
_CODES = {"inputs": 16, "targets": 192}

# Steps that are timed, after those that compile.
_TIMED_STEPS = 60


class Row(NamedTuple):
    """One row: what it changes.

    Attributes:
      kind: of the task or mixture that is trained on.
      measured: of the retrieval task that is evaluated.
      ids: scheme of the dataset's ids.
      settings: values by gin name.
    """

    kind: str = "ids_sequence"
    measured: str = "ids_sequence"
    ids: str = "atomic"
    settings: Mapping[str, Any] = MappingProxyType({})


def _targets(kind: str, of: str) -> dict:
    return {"targets.targets.of": {kind: of}}


def _prompts(kind: str, of: str) -> Row:
    lengths = _TITLES if kind == "retrieval" else _IDS
    return Row(kind, kind, settings={**_targets(kind, of), "TASK_FEATURE_LENGTHS": lengths})


# Those of runs/ids_semantic.gin.
_SEMANTIC = {
    "network.T5Config.logits_via_embedding": False,
    "LEARNING_RATE": 0.0015,
    "DROPOUT_RATE": 0.1,
    "TASK_FEATURE_LENGTHS": _CODES,
}
_NO_TEXTS = {"initial_state.item_embeddings.source": None}

ROWS = {
    "as it is": Row(),
    "targets: random": Row(settings=_targets("ids_sequence", "random")),
    "targets: last": Row(settings=_targets("ids_sequence", "last")),
    "prompts of ids": _prompts("ids_retrieval", "every"),
    "prompts with titles, every": _prompts("retrieval", "every"),
    "prompts with titles, last": _prompts("retrieval", "last"),
    "with MIM": Row("ids_sequence_mim", settings={"TASK_FEATURE_LENGTHS": _AND_IDS}),
    "with BPR": Row("ids_sequence_bpr", settings={"TASK_FEATURE_LENGTHS": _AND_IDS}),
    "with MLM": Row("ids_sequence_mlm", settings={"TASK_FEATURE_LENGTHS": _AND_TITLES}),
    "with IE": Row("ids_sequence_ie", settings={"TASK_FEATURE_LENGTHS": _AND_TITLES}),
    "embeddings not from texts": Row(settings=_NO_TEXTS),
    "random ids": Row(ids="random", settings={**_NO_TEXTS, "TASK_FEATURE_LENGTHS": _CODES}),
    "semantic ids": Row(ids="semantic", settings=_SEMANTIC),
    "semantic ids not from texts": Row(ids="semantic", settings={**_SEMANTIC, **_NO_TEXTS}),
    "semantic ids as atomic ones": Row(ids="semantic", settings={"TASK_FEATURE_LENGTHS": _CODES}),
}

# Rows that are the run of another row, ranked together with item-to-item.
WITH_PRIOR = {
    "as it is, with the prior": "as it is",
}


def main() -> None:
    args = _parse()
    for ids in sorted({ROWS[name].ids for name in args.rows}):
        source = ["--raw_dir", args.raw_dir] if args.raw_dir else []
        _run(["prepare", args.dataset, "--ids", ids, *source, *_data(args, ids)], args.out / ids)
    steps = _steps(args)
    # Seeds come first, so that a table is whole after a third of the time.
    jobs = [(seed, name) for seed in args.seeds for name in args.rows]
    cores: queue.Queue[int] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def work(job):
        core = cores.get()
        try:
            _train_and_measure(args, *job, steps, core)
        finally:
            cores.put(core)

    with concurrent.futures.ThreadPoolExecutor(cores.qsize()) as pool:
        list(pool.map(work, jobs))
    _print(args, steps)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--raw_dir", help="folder of the raw files")
    parser.add_argument("--out", type=Path, required=True, help="data, runs and table")
    parser.add_argument("--minutes", type=float, default=2.0, help="of one core, for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def _data(args: argparse.Namespace, ids: str) -> list[str]:
    return ["--data_dir", str(args.out / "data" / ids)]


def _run(command: list[str], log: Path, core: int | None = None) -> None:
    """Runs `recllm` on one core, or on all; raises RuntimeError naming the log."""
    on = ["taskset", "-c", str(core)] if core is not None else []
    with open(f"{log}.log", "a") as out:
        done = subprocess.run([*on, _RECLLM, *command], stdout=out, stderr=out)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: failed, see {log}.log")


def _train(args, name: str, seed: int, steps: int, folder: Path, core: int) -> None:
    row = ROWS[name]
    gin = {
        "DATASET": args.dataset,
        "MODEL_DIR": str(folder),
        "RANDOM_SEED": seed,
        "TRAIN_STEPS": steps,
        "WARMUP_STEPS": min(100, steps // 5),
        "EVAL_PERIOD": -(-steps // 4),
        **row.settings,
    }
    command = [
        "train",
        *_data(args, row.ids),
        *(f"--gin_file={file}" for file in _SETTINGS),
        *(f"--gin.{key}={value!r}" for key, value in gin.items()),
        f"--gin.MIXTURE_OR_TASK_NAME={args.dataset}_{row.kind}",
    ]
    _run(command, folder, core)


def _steps(args: argparse.Namespace) -> dict[str, int]:
    """Steps of each row in the budget, measured one after the other on one core."""
    path = args.out / "steps.json"
    steps = json.loads(path.read_text()) if path.exists() else {}
    core = min(os.sched_getaffinity(0))
    for name in args.rows:
        if name not in steps:
            folder = args.out / "timed" / _slug(name)
            folder.parent.mkdir(exist_ok=True)
            _train(args, name, 0, _TIMED_STEPS, folder, core)
            steps[name] = round(args.minutes * 60 * _steps_a_second(folder))
            path.write_text(json.dumps(steps, indent=1))
    return steps


def _steps_a_second(run: Path) -> float:
    rates = [rate for _, rate in curves.load(run)["steps/s"]]
    return statistics.median(rates[1:])  # the first steps compile


def _slug(name: str) -> str:
    return name.replace(":", "").replace(",", "").replace(" ", "_")


def _train_and_measure(args, seed: int, name: str, steps: dict, core: int) -> None:
    folder = args.out / "runs" / f"{_slug(name)}_seed_{seed}"
    folder.parent.mkdir(exist_ok=True)
    weights = {"0.0": name}
    if name in WITH_PRIOR.values():
        weights["validation"] = next(row for row, of in WITH_PRIOR.items() if of == name)
    for weight, row in weights.items():
        out = folder / f"ablation-{weight}.json"
        if out.exists():
            continue
        _train(args, name, seed, steps[name], folder, core)
        task = f"{args.dataset}_{ROWS[name].measured}"
        command = ["eval", *_data(args, ROWS[name].ids), f"--gin.MODEL_DIR={folder}"]
        _run(
            [*command, f"--gin.PRIOR_WEIGHT={weight}", f"--gin.MIXTURE_OR_TASK_NAME={task}"],
            folder,
            core,
        )
        results = json.loads((folder / "results.json").read_text())
        measured = results["metrics"][task] | {
            f"{group} {metric}": value
            for group, found in results["by_target"][task].items()
            for metric, value in found.items()
        }
        out.write_text(json.dumps({"row": row, "seed": seed, **measured}))
        print(f"{row}, seed {seed}: ndcg@10 {measured['ndcg@10']:.4f}", flush=True)


def _print(args: argparse.Namespace, steps: dict[str, int]) -> None:
    found = [json.loads(path.read_text()) for path in (args.out / "runs").glob("*/ablation-*.json")]
    table = Table(title=f"{args.dataset}, test, {args.minutes:g} minutes of one core a run")
    columns = ("hr@10", "ndcg@10", "co_occurs hr@10", "no_co_occurrence hr@10")
    for name in ("", "steps", *columns, "seeds"):
        table.add_column(name, justify="left" if not name else "right")
    for row in [*ROWS, *WITH_PRIOR]:
        own = [results for results in found if results["row"] == row]
        if not own:
            continue
        cells = [_mean([results[column] for results in own]) for column in columns]
        table.add_row(row, f"{steps[WITH_PRIOR.get(row, row)]:,}", *cells, str(len(own)))
    Console(width=140).print(table)


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


if __name__ == "__main__":
    main()
