"""Runs `process` in RecBole's environment and turns its output into a row's results.

A row's folder holds `recbole/` with the files of the job. A stopped training resumes from its last
epoch, and a larger budget resumes from the end of a smaller one.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recllm_tasks.baselines import evaluation
from recllm_tasks.baselines.interactions import Splits
from recllm_tasks.baselines.measured import Measured
from recllm_tasks.baselines.recbole import exported
from recllm_tasks.baselines.recbole.budget import Budget
from recllm_tasks.baselines.recbole.models import MODELS
from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write, read_json, write_json
from recllm_tasks.runs.decoding import LEAVE_OUT

PROGRAM = pathlib.Path(__file__).with_name("process")
FOLDER = "recbole"
ENVIRONMENT = ".venv-baselines"


def settings_of(name: str, budget: Budget) -> dict[str, Any]:
    """Everything but the data and the rule for seen items that a row's results depend on: JSON."""
    model = MODELS[name]
    return {
        "network": model.network,
        "config": dict(model.config),
        "pretrain": model.pretrain and dict(model.pretrain),
        "seed": budget.seed,
        **budget.limits,
    }


def find_python(given: str | None) -> str:
    """The Python of RecBole's environment.

    Args:
      given: by the user; None is `.venv-baselines` here or in the checkout.

    Raises:
      UserError: it does not exist.
    """
    if given:
        places = [pathlib.Path(given).expanduser()]
    else:
        roots = (pathlib.Path.cwd(), pathlib.Path(__file__).parents[3])
        places = [root / ENVIRONMENT / "bin" / "python" for root in roots]
    for place in places:
        if os.access(place, os.X_OK) and place.is_file():
            return str(place.absolute())
    raise UserError(
        f"Python with RecBole: got none at {' or '.join(map(str, places))}, expected the "
        "environment that launch/install_baselines.sh creates; run it, or name its Python with "
        "--recbole_python"
    )


def measure(
    name: str,
    splits: Splits,
    folder: pathlib.Path,
    python: str,
    budget: Budget,
    seen: str,
    say: Callable[[str], None],
) -> Measured:
    """Trains a row, or resumes its training, and measures it.

    Args:
      name: in MODELS.
      splits: of the dataset.
      folder: of the row; holds the job's files.
      python: of RecBole's environment.
      budget: of training.
      seen: the rule for seen items, in validation too; a training under another one is repeated,
        because its best epoch may be another.
      say: receives messages about progress, one per epoch.

    Raises:
      UserError: the training failed; the message has its last line, and where the log is.
    """
    model, within = MODELS[name], folder / FOLDER
    settings = settings_of(name, budget)
    _prepare(within, name, splits, budget, seen)
    _run(python, within, say)
    report = json.loads((within / "report.json").read_text(encoding="utf-8"))
    settings |= {key: report[key] for key in ("versions", "curve", "pretraining")}
    settings["epoch"] = 1 + int(np.argmax([found["validation"] for found in report["curve"]]))
    rated = model.kinds == ("rating",)
    table = _read(within / "predictions.parquet", len(splits.of(model.kinds[0]).targets))
    scores = {"rating": table["score"].to_numpy()} if rated else {}
    return Measured(
        {} if rated else ranked(table, splits.evaluated),
        scores,
        report["seconds"],
        report["fit_seconds"],
        settings,
        report["parameters"],
        report["peak_memory_bytes"],
    )


def ranked(table: pa.Table, interactions) -> dict[str, evaluation.Ranked]:
    """Retrieval and ranking, from ranks, lists and scores of candidates."""
    lists = [np.array(items, np.int32) for items in table["items"].to_pylist()]
    candidates_Ux1C = evaluation.candidates_of(interactions)
    scores_Ux1C = np.array(table["candidate_scores"].to_pylist())
    return {
        "retrieval": evaluation.Ranked(table["rank"].to_numpy(), lists),
        "ranking": evaluation.rank_offered(candidates_Ux1C, scores_Ux1C, interactions.targets),
    }


def _prepare(within: pathlib.Path, name: str, splits: Splits, budget: Budget, seen: str) -> None:
    """Writes the job, and removes the files of one with other data or settings."""
    model, rated = MODELS[name], MODELS[name].kinds == ("rating",)
    info, split = splits.source.info(), splits.split
    settings = settings_of(name, budget)
    for limit in budget.limits:
        del settings[limit]
    program = hashlib.sha256()
    for path in sorted(PROGRAM.glob("*.py")):
        program.update(path.read_bytes())
    facts = {
        "fingerprint": info.fingerprint,
        "split": split,
        **({} if rated else {"seen": seen}),
        "program": program.hexdigest(),
        **settings,
    }
    facts = json.loads(json.dumps(facts))
    if read_json(within / "facts.json") != facts:
        shutil.rmtree(within, ignore_errors=True)
    within.mkdir(parents=True, exist_ok=True)
    (within / "predictions.parquet").unlink(missing_ok=True)
    (within / "report.json").unlink(missing_ok=True)
    if not (within / "facts.json").exists():
        validation = splits.validation
        if rated:
            validation = validation.rated()
        exported.write_log(within, splits.evaluated, splits.source.catalog(), rated)
        exported.write_users(within / "users.parquet", splits.of(model.kinds[0]), rated)
        exported.write_users(within / "validation.parquet", validation, rated)
        write_json(within / "facts.json", facts)
    with atomic_write(within / "job.json") as f:
        json.dump(_job(name, budget, splits, seen), f, indent=2)


def _job(name: str, budget: Budget, splits: Splits, seen: str) -> Mapping[str, Any]:
    model = MODELS[name]
    return {
        "network": model.network,
        "config": dict(model.config),
        "kinds": list(model.kinds),
        "exclude_seen": seen == LEAVE_OUT,
        "pretrain": model.pretrain and dict(model.pretrain),
        "num_items": splits.evaluated.num_items,
        "seed": budget.seed,
        "threads": budget.num_threads,
        # The training ends when this process does.
        "parent": os.getpid(),
        **budget.limits,
    }


def _run(python: str, within: pathlib.Path, say: Callable[[str], None]) -> None:
    log, command = within / "errors.log", [python, "-I", str(PROGRAM), str(within)]
    with (
        open(log, "w", encoding="utf-8") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=within,
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                _report(line, say)
            code = process.wait()
        finally:
            process.kill()
    if code or not (within / "report.json").is_file():
        words = log.read_text(encoding="utf-8").strip().splitlines()
        last = f" and '{words[-1].strip()}'" if words else ""
        raise UserError(
            f"RecBole for '{within.parent.name}': got exit code {code}{last}, expected a complete "
            f"training; see {log}, or run launch/install_baselines.sh again"
        )


def _report(line: str, say: Callable[[str], None]) -> None:
    """Reports a line of progress; RecBole also prints other lines."""
    try:
        event = json.loads(line)
    except ValueError:
        return
    if not isinstance(event, dict):
        return
    if "resumed" in event:
        say(f"resumes after epoch {event['resumed']}")
    elif "epoch" in event:
        stage = "" if event["stage"] else "pre-training, "
        found = f", validation {event['validation']:.4f}" if "validation" in event else ""
        say(
            f"{stage}epoch {event['epoch']} of at most {event['epochs']}: loss {event['loss']:.4f}"
            f"{found}, {event['seconds']:.0f} s"
        )
    elif "predicting" in event:
        say(f"scores {event['predicting']:,} users")


def _read(path: pathlib.Path, num_users: int) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"Predictions '{path}': got {str(error).splitlines()[0]}, expected what `process` "
            "wrote; run the row again"
        ) from error
    if len(table) != num_users:
        raise UserError(
            f"Predictions '{path}': got {len(table):,} users, expected {num_users:,}; run the row "
            "again"
        )
    return table
