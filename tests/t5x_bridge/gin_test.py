"""Every model × run × mixture file parses, and needs no more than what its head says."""

import importlib
import itertools
import sys
import types
from pathlib import Path

import gin
import numpy as np
import pytest

from recllm_tasks import gin_files
from recllm_tasks.errors import UserError

ROOT = Path(__file__).resolve().parents[2] / "gin"
MODELS = sorted(path.name for path in (ROOT / "models").glob("*.gin"))
MIXTURES = sorted(path.name for path in (ROOT / "mixtures").glob("*.gin"))
ENGINE_RUNS = {"eval.gin": "evaluation.evaluate", "infer.gin": "inference.infer"}
USERS = {"DATASET": "'gift_cards'", "MODEL_DIR": "'/tmp/run'"}
T5X_RUNS = {
    "t5x_finetune.gin": ("train", ()),
    "t5x_eval.gin": ("evaluate", ("EVAL_OUTPUT_DIR",)),
    "t5x_infer.gin": ("infer", ("INFER_OUTPUT_DIR",)),
}
PUBLISHED = {"small": 1198000, "base": 1184000, "large": 1164000, "xl": 1138000}
PUBLISHED |= {"tiny": 0, "ids": 0}

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


@gin.configurable(module="gin_test")
def _value(of=None):
    return of


def value(of: str):
    """What a setting comes to, with the functions in it called."""
    with gin.unlock_config():
        gin.parse_config(f"gin_test._value.of = {of}")
    return _value()


def parse(root: str, *files: str, bindings=()) -> None:
    """Reads the settings of a run, all of which must have a value and be read."""
    gin.clear_config()
    gin_files.parse(files, [f"{k} = {v}" for k, v in USERS.items()] + list(bindings), root)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_model_and_mixture_files_serve_the_engine(mixture):
    runs = [("training.train", f"models/{model}", "runs/finetune.gin") for model in MODELS]
    runs += [(root, f"runs/{run}") for run, root in ENGINE_RUNS.items()]
    for run in runs:
        parse(*run, f"mixtures/{mixture}")
        assert value("%MIXTURE_OR_TASK_NAME") == f"gift_cards_{mixture.removesuffix('.gin')}"


def test_a_mixture_file_without_a_dataset_says_so():
    gin.clear_config()
    with pytest.raises(UserError, match=r"--gin.DATASET=DATASET"):
        gin_files.parse(
            ["runs/eval.gin", "mixtures/ut.gin"], ["MODEL_DIR = 'run'"], "evaluation.evaluate"
        )


@pytest.fixture
def program(t5x, monkeypatch):
    """Makes one of T5X's programs `__main__`, as its launcher does."""

    def make(name: str) -> None:
        module = importlib.import_module(f"t5x.{'eval' if name == 'evaluate' else name}")
        main = types.ModuleType("__main__")
        main.__dict__.update({name: getattr(module, name)})
        monkeypatch.setitem(sys.modules, "__main__", main)
        gin.add_config_file_search_path(t5x.folder)

    return make


@pytest.mark.t5x
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("run", T5X_RUNS)
def test_model_and_mixture_files_serve_t5x(program, model, run):
    name, required = T5X_RUNS[run]
    program(name)
    for mixture, stock in itertools.product(MIXTURES, (False, True)):
        parse(
            name,
            *(f"models/{model}", f"runs/{run}", f"mixtures/{mixture}"),
            *(["runs/t5x_stock.gin"] if stock else []),
            bindings=[f"{macro} = '/tmp/out'" for macro in required],
        )
        assert value("%MIXTURE") == f"gift_cards_{mixture.removesuffix('.gin')}"
        assert value("%NUM_BEAMS") == 20
        decode_fn = "beam_search" if stock else "catalog_beam_search"
        assert value("%DECODE_FN").__name__ == decode_fn
        if run == "t5x_finetune.gin":
            check_steps(model.removeprefix("flan_t5_").removesuffix(".gin"))


def check_steps(size: str) -> None:
    """Paper §4.1: steps and batch; they count from the published checkpoint's step on."""
    assert value("%RANDOM_SEED") == 0
    assert value("%WARMUP_STEPS") == 1000
    assert value("%LEARNING_RATE") == 0.001
    assert value("@finetuning.total_steps()") == PUBLISHED[size] + value("%TRAIN_STEPS")
    if size in ("base", "xl"):
        steps_and_batch = (value("%TRAIN_STEPS"), value("%BATCH_SIZE"))
        assert steps_and_batch == {"base": (10_000, 64), "xl": (70_000, 16)}[size]
    config = value("@network.T5Config()")
    assert (config.dtype, config.remat) == ("bfloat16", size == "xl")
    schedule = value("@finetuning.learning_rate()")
    steps = PUBLISHED[size] + np.array([0, 499, 999, 5000])
    expected = [1e-6, 5e-4, 1e-3, 1e-3]
    assert [float(schedule(step)) for step in steps] == pytest.approx(expected, rel=1e-4)
