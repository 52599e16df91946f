"""Settings that nothing reads, settings without a value, and whose errors are the user's."""

import re
from typing import Any

import gin
import pytest

from recllm_tasks import gin_files, mixtures  # noqa: F401
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import candidates  # noqa: F401

MODEL, RUN = "models/tiny.gin", "runs/finetune.gin"
GIVEN = ("MODEL_DIR = '/run'", "MIXTURE_OR_TASK_NAME = 'toys_reat'")

pytestmark = pytest.mark.usefixtures("clean_gin")


def train(*bindings: str, files=(MODEL, RUN), given=GIVEN) -> None:
    gin_files.parse(files, [*given, *bindings], "training.train")


def fails(*bindings: str, files=(MODEL, RUN), given=GIVEN) -> str:
    gin.clear_config()
    with pytest.raises(UserError) as error:
        train(*bindings, files=files, given=given)
    return str(error.value)


@pytest.mark.parametrize(
    ("binding", "nearest"),
    [
        ("TRAINSTEPS = 2", "perhaps TRAIN_STEPS"),
        ("train_steps = 2", "perhaps TRAIN_STEPS"),
        ("mixtures/TRAIN_STEPS = 2", "perhaps TRAIN_STEPS"),
        ("FINETUNE_STEP = 2", "perhaps FINETUNE_STEPS"),
        ("NUM_BEAMS = 2", "one of BATCH_SIZE, "),  # only recllm eval and infer have it
        ("optimizer.warmup_then_decay.learning_rate = 1.0", "perhaps optimizer.constant_with_wa"),
        ("evaluation.evaluate.split = 'test'", "perhaps "),
        ("EXCLUDE_HISTORY = True", "expected SEEN, 'leave_out' in place of True"),
        ("trian/network.T5Config.dropout_rate = 0.3", "perhaps network.T5Config.dropout_rate"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(binding, nearest):
    gin_files.parse(["runs/eval.gin"], GIVEN[:1], "evaluation.evaluate")  # registers its functions
    train("DATASET = 'toys'", files=(MODEL, RUN, "runs/ids_sequence.gin"))
    name = binding.split(" =")[0]
    found = fails(binding)
    assert f"Setting --gin.{name}: got a name that nothing in this run reads" in found
    assert nearest in found


def test_a_setting_of_older_versions_names_its_successor():
    given = ["MODEL_DIR = '/run'"]
    for binding in ("EXCLUDE_HISTORY = True", "decoding.Decoding.exclude_history = True"):
        for run, function in (("eval", "evaluation.evaluate"), ("infer", "inference.infer")):
            gin.clear_config()
            with pytest.raises(UserError, match="SEEN, 'leave_out'"):
                gin_files.parse([f"runs/{run}.gin"], [*given, binding], function)


def test_a_setting_that_another_one_replaced_is_not_read():
    train("FINETUNE_STEPS = 5")
    found = fails("FINETUNE_STEPS = 5", "TRAIN_STEPS = 7")
    assert "--gin.FINETUNE_STEPS" in found


@pytest.mark.parametrize(
    "binding",
    [
        "mixtures.rate.rates = {'mim': 2.0}",
        "vocabulary.sentencepiece_file.path = 'spiece.model'",
        "candidates.ranking_negatives.each_epoch = True",
        "targets.targets.of = {'bpr': 'random'}",
        "targets.of = {'retrieval': 'every'}",
        "training.train.eval_examples = 10",
        "network.T5Config.remat = True",
        "optimizer.constant_with_warmup.warmup_steps = 5",
        "decoding.Decoding.num_beams = 5",
    ],
)
def test_what_code_calls_itself_is_read(binding):
    train(binding)


@pytest.mark.parametrize(
    ("bindings", "files"),
    [
        (("random_targets.tasks = ('retrieval',)",), (MODEL, RUN)),
        ((), (MODEL, RUN, "mine.gin")),
    ],
)
def test_the_old_name_of_a_setting_names_the_new_one(bindings, files, own_file):
    own_file(
        "from __gin__ import dynamic_registration\n"
        "from recllm_tasks.prompts import random_targets\n"
        "random_targets.random_targets.tasks = ('retrieval',)\n"
    )
    assert "random_targets is now targets.targets.of, such as" in fails(*bindings, files=files)


def test_macros_of_the_command_line_are_read_through_other_settings():
    train("RATES = {'mim': %RATE}", "RATE = 2.0", "mixtures.rate.rates = %RATES")
    assert "--gin.RATE:" in fails("RATE = 2.0", "RATES = {'mim': %RATE}")


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """Writes a gin file in the current folder."""
    monkeypatch.chdir(tmp_path)
    return lambda text, name="mine.gin": (tmp_path / name).write_text(text)


def test_a_macro_of_a_users_file_that_nothing_refers_to_is_refused(own_file):
    own_file("WINDOW = 2\nTRAIN_STEPS = %WINDOW\n\nEVALPERIOD = 5\n")
    found = fails(files=(MODEL, RUN, "mine.gin"))
    assert re.search(r"Setting EVALPERIOD in '.*mine.gin', line 4: .* perhaps EVAL_PERIOD", found)


def test_a_users_file_may_hold_settings_of_other_runs(own_file):
    own_file("NUM_BEAMS = 2\nPUBLISHED_CHECKPOINT = None\nEVAL_OUTPUT_DIR = '/out'\n")
    train(files=(MODEL, RUN, "mine.gin"))
    own_file("include 'models/tiny.gin'\nWARM = 10\nLATER = %WARM\n")
    own_file("WARMUP_STEPS = %LATER\n", "more.gin")
    train(files=("mine.gin", RUN, "more.gin"))


def test_settings_that_another_program_shares_are_accepted_where_asked():
    bindings = [*GIVEN, "NUM_BEAMS = 2"]
    files = [gin_files.find(name) for name in (MODEL, RUN)]
    gin.parse_config_files_and_bindings(files, bindings, finalize_config=False)
    gin_files.check(files, bindings, "training.train", shared=True)
    with pytest.raises(UserError, match="NUM_BEAMZ"):
        gin_files.check(files, [*bindings, "NUM_BEAMZ = 3"], "training.train", shared=True)


@pytest.mark.parametrize(
    ("files", "given", "remedy"),
    [
        ((MODEL, RUN), (), "Settings MIXTURE_OR_TASK_NAME, MODEL_DIR: got no value"),
        ((MODEL, RUN), GIVEN[:1], "give --gin.MIXTURE_OR_TASK_NAME=TASK"),
        ((MODEL, RUN), GIVEN[1:], "give --gin.MODEL_DIR=FOLDER"),
        ((RUN, MODEL), GIVEN, "give --gin_file=models/tiny.gin before --gin_file=runs/finetune"),
        ((RUN,), GIVEN, "give a model file first, such as --gin_file=models/tiny.gin"),
        ((MODEL, RUN, "mixtures/ut.gin"), GIVEN[:1], "give --gin.DATASET=DATASET"),
        ((MODEL,), GIVEN, "No run in the settings: got models/tiny.gin, expected one that conf"),
        ((MODEL, "runs/eval.gin"), GIVEN, "configures training.train, one of runs/finetune.gin"),
        ((MODEL, RUN, "runs/infer.gin"), (), "give --gin.MODEL_DIR=FOLDER"),
    ],
)
def test_a_setting_without_a_value_is_reported_with_the_remedy(files, given, remedy):
    found = fails(files=files, given=given)
    assert remedy in found
    assert "gin.REQUIRED" not in found


def test_evaluation_does_not_take_a_model_file():
    with pytest.raises(UserError, match=r"leave out --gin_file=models/tiny.gin"):
        gin_files.parse(["runs/eval.gin", MODEL], GIVEN[:1], "evaluation.evaluate")


def test_an_import_of_a_gin_file_that_fails_is_the_users(own_file):
    own_file("from __gin__ import dynamic_registration\nimport no_such_module_at_all\n")
    assert "no_such_module_at_all" in fails(files=(MODEL, RUN, "mine.gin"))


@gin.configurable(module="gin_files_test")
def _broken(size: Any = 1):
    return len(size)


def test_our_own_errors_are_not_the_users(monkeypatch):
    """Not even where the package lies in a folder called gin."""
    with pytest.raises(TypeError, match="has no len"), gin_files.gin_errors("settings"):
        _broken()
    code = compile(_SOURCE, "/home/me/gin/recllm_tasks/engine/training.py", "exec")
    names: dict = {}
    exec(code, names)
    with pytest.raises(TypeError, match="has no len"), gin_files.gin_errors("settings"):
        names["train"]()


_SOURCE = "def train():\n    return len(5)\n"


def test_missing_arguments_are_the_users():
    wrong = pytest.raises(UserError, match=r"Wrong setting in settings: .*size")
    with wrong, gin_files.gin_errors("settings"):
        _needy()


@gin.configurable(module="gin_files_test")
def _needy(size):
    return size
