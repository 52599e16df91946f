"""Settings of a very short training on the small dataset; Weights & Biases and MLflow for tests."""

import importlib.util
import json
import os
import pathlib
import struct
import sys
import types
from collections.abc import Iterator
from typing import NamedTuple

import jax
import pytest

from recllm_tasks.engine import decoding, optimizer, training
from recllm_tasks.runs.decoding import Decoding

LENGTHS = {"inputs": 512, "targets": 64}


@pytest.fixture(scope="package", autouse=True)
def few_buckets(decoding_buckets):
    """Few programs per search: compiling takes most of the time here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "BUCKETS", decoding_buckets)
        yield


@pytest.fixture
def settings(network):
    """Arguments of `training.train` except the folder, the mixture and the steps."""
    return {
        "model_name": "very_small",
        "lengths": LENGTHS,
        "network": network,
        "optimizer": optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10)),
        "batch_size": 4,
        "eval_period": 3,
        "decoding": Decoding(num_beams=4, batch_size=16),
        "seed": 1,
    }


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.fixture
def script_validations():
    """A function that makes validations give `value_of(step)` as ndcg@10."""

    def script(patch: pytest.MonkeyPatch, value_of) -> None:
        validate, steps = training._Loop._validate, []

        def validate_at(self, state, step, work, stop):
            steps.append(step)
            validate(self, state, step, work, stop)

        def measure(validation, params, check):
            return "ndcg@10", {"ndcg@10": value_of(steps[-1])}

        patch.setattr(training._Loop, "_validate", validate_at)
        patch.setattr(training.Validation, "measure", measure)

    return script


class Found(NamedTuple):
    """What a tracker has of one run: (step, value) by name in the order of writing, and config."""

    id: str
    scalars: dict[str, list[tuple[int, float]]]
    config: dict[str, str]


class Error(Exception):
    pass


class Param(NamedTuple):
    key: str
    value: str


class Metric(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int


class StandIn:
    """What tracking.py uses of Weights & Biases and of MLflow.

    `runs` is by id; `asked` has what they were started and ended with; `fails` makes MLflow fail.
    """

    def __init__(self):
        self.runs, self.asked, self.fails = {}, [], False

    def wandb(self) -> types.ModuleType:
        module = types.ModuleType("wandb")
        module.__dict__.update(init=self._init, Settings=dict)
        module.__dict__.update(errors=types.SimpleNamespace(Error=Error))
        return module

    def mlflow(self) -> types.ModuleType:
        module = types.ModuleType("mlflow")
        module.__dict__.update(
            MlflowClient=lambda: self,
            get_tracking_uri=lambda: "http://127.0.0.1:1",
            entities=types.SimpleNamespace(Param=Param, Metric=Metric),
            exceptions=types.SimpleNamespace(MlflowException=Error),
        )
        return module

    def _init(self, **arguments):
        self.asked.append(arguments)
        id = arguments["id"] or f"w{len(self.runs)}"
        run = self.runs.setdefault(id, Found(id, {}, dict(arguments["config"])))

        def log(row):
            for name, value in row.items():
                if name != "step":
                    run.scalars.setdefault(name, []).append((row["step"], value))

        return types.SimpleNamespace(
            id=id,
            log=log,
            define_metric=lambda name, step_metric: None,
            finish=lambda exit_code: self.asked.append(exit_code),
        )

    def get_experiment_by_name(self, name):
        self._check()

    def create_experiment(self, name):
        return "1"

    def create_run(self, experiment, run_name):
        id = f"m{len(self.runs)}"
        self.runs[id] = Found(id, {}, {})
        return self._run(id)

    def get_run(self, id):
        self._check()
        if id not in self.runs:
            raise Error(f"Run '{id}' not found")
        return self._run(id)

    def update_run(self, id, status):
        self.asked.append(status)

    set_terminated = update_run

    def log_batch(self, id, metrics=(), params=()):
        self._check()
        self.runs[id].config.update(params)
        for metric in metrics:
            assert "@" not in metric.key
            self.runs[id].scalars.setdefault(metric.key, []).append((metric.step, metric.value))

    def _check(self):
        if self.fails:
            raise Error("connection refused\nat length")

    def _run(self, id):
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=id))


@pytest.fixture
def stand_in(monkeypatch):
    """Both packages are stand-ins, also where they are installed."""
    made = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", made.wandb())
    monkeypatch.setitem(sys.modules, "mlflow", made.mlflow())
    return made


@pytest.fixture
def tracked(monkeypatch, tmp_path):
    """A function of a run's folder: what each package has of the run, or a stand-in for it.

    No network is used: W&B is offline, MLflow writes into a database.
    """
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    made = StandIn()
    read = {"wandb": _of_wandb, "mlflow": _of_mlflow}
    for name in read:
        if importlib.util.find_spec(name) is None:
            monkeypatch.setitem(sys.modules, name, getattr(made, name)())
            read[name] = lambda folder, id: made.runs[id]

    def found(model_dir: str | os.PathLike) -> dict[str, Found]:
        ids = json.loads((pathlib.Path(model_dir) / "tracking.json").read_text())
        return {name: read[name](pathlib.Path(model_dir), ids[name]) for name in read}

    return found


def _of_mlflow(folder: pathlib.Path, id: str) -> Found:
    import mlflow

    client = mlflow.MlflowClient()
    run = client.get_run(id)
    scalars = {
        name: sorted((metric.step, metric.value) for metric in client.get_metric_history(id, name))
        for name in run.data.metrics
    }
    return Found(id, scalars, run.data.params)


def _of_wandb(folder: pathlib.Path, id: str) -> Found:
    from wandb.proto import wandb_internal_pb2

    scalars, config = {}, {}
    for path in sorted(folder.glob(f"wandb/offline-run-*-{id}/run-{id}.wandb")):
        for content in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            items = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            for name, value in items.items():
                if not name.startswith("_") and name != "step":
                    scalars.setdefault(name, []).append((items["step"], value))
    return Found(id, scalars, {name: value for name, value in config.items() if name != "_wandb"})


def _records(content: bytes) -> Iterator[bytes]:
    """Of an offline file: LevelDB's log format after a header of seven bytes."""
    place, record = 7, b""
    while place + 7 <= len(content):
        left = 2**15 - place % 2**15
        kind = 0 if left < 7 else content[place + 6]
        if kind == 0:
            place += left
            continue
        (length,) = struct.unpack("<H", content[place + 4 : place + 6])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""
