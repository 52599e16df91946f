"""`recllm train DATASET --out RUN`, and what follows it, as a user types it."""

import csv
import os
import pathlib
import re
import shlex
import subprocess
import sys

import gin
import pytest
import seqio

from recllm_tasks import cli, gin_files

SHORT = ["--gin.TRAIN_STEPS=12", "--gin.EVAL_PERIOD=12", "--gin.WARMUP_STEPS=2"]

pytestmark = pytest.mark.usefixtures("clean_gin")


@pytest.fixture(autouse=True)
def _forget_data_dir():
    yield
    seqio.set_tfds_data_dir_override(None)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A data folder with `shop` and `kiosk`, of 30 users and 12 items; a file with its log."""
    folder = tmp_path_factory.mktemp("stores")
    for name, step in (("shop", 1), ("kiosk", 5)):
        with open(folder / f"{name}.csv", "w", newline="") as f:
            rows = csv.writer(f)
            rows.writerow(["user", "item", "time", "title"])
            for user in range(30):
                for place in range(8):
                    item = (user + step * place) % 12
                    rows.writerow([f"u{user}", f"sku{item}", 86_400 * place, ""])
        files = ["--interactions", str(folder / f"{name}.csv")]
        assert cli.main(["prepare", name, *files, "--data_dir", str(folder / "data")]) == 0
    seqio.set_tfds_data_dir_override(None)
    return folder


@pytest.fixture(scope="module")
def trained(stores):
    """Data folder, run, and standard error of a training in a process of its own."""
    data, run = str(stores / "data"), str(stores / "my run")
    arguments = ["train", "shop", "--data_dir", data, "--out", run, *SHORT]
    quiet = ("TF_CPP_MIN_LOG_LEVEL", "GRPC_VERBOSITY")
    done = subprocess.run(
        [sys.executable, "-m", "recllm_tasks.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name not in quiet},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return data, run, done.stderr


def _main(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


_OURS = r"""shop: 30 users, 12 items, 180 interactions to learn from, no ratings, no texts, .*
note: embeddings begin at random, as the items have no texts; .*
settings, as a gin file:
(  .*
)+about .* of training, less if it stops early: 1 steps of .* s; .* validation every 12 steps
step 12: validation ndcg@10 0\.\d+
trained; the checkpoint to use is in .*/my run/best
next:
  recllm eval '.*/my run' --data_dir .*
  recllm recommend '.*/my run' --data_dir .* --history '.*'
"""


def test_nothing_but_our_lines_is_printed(trained):
    # A slow machine takes more than a minute.
    progress = r"(train|decode) shop_ids_sequence [\d,]+/[\d,]+( .*)?\n"
    printed = re.sub(f"(?m)^{progress}", "", trained[2])
    assert re.fullmatch(_OURS, printed), printed


def test_the_printed_settings_are_a_gin_file_of_the_same_run(trained, tmp_path):
    _, run, printed = trained
    lines = printed.split("as a gin file:\n")[1].split("\nabout ")[0].splitlines()
    file = tmp_path / "chosen.gin"
    file.write_text("\n".join(line.removeprefix("  ") for line in lines))
    gin_files.parse([str(file)], [], "training.train")
    values = (("MODEL_DIR", run), ("DATASET", "shop"), ("TRAIN_STEPS", 12), ("PATIENCE", 4))
    for name, value in values:
        assert gin.query_parameter(f"%{name}") == value
    at_random = "initial_state.item_embeddings.source = None"
    assert at_random in gin.config_str()
    assert at_random in pathlib.Path(run, "config.gin").read_text()


def test_the_printed_commands_work(trained, capsys):
    for line in trained[2].split("next:\n")[1].splitlines():
        gin.clear_config()
        assert _main(*shlex.split(line)[1:]) == 0
    shown = capsys.readouterr().out
    assert "ahead: " in shown
    assert "after I" in shown


def test_the_same_command_resumes_and_another_dataset_is_refused(trained, capsys):
    data, run, _ = trained
    last = ["--data_dir", data, "--out", run, *SHORT, "--gin.TRAIN_STEPS=13"]
    assert _main("train", "shop", *last) == 0
    assert f"resumed at step 12 from {run}" in capsys.readouterr().err
    gin.clear_config()
    assert _main("train", "kiosk", *last) == 2
    error = capsys.readouterr().err
    assert f"MODEL_DIR '{run}' holds another run" in error
    assert "got mixture 'kiosk_ids_sequence', expected 'shop_ids_sequence'" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "shop"], "give --out RUN"),
        (["train", "shop", "--out", "a", "--gin.MODEL_DIR=b"], "expected one of them"),
        (["train", "shopp", "--out", "a"], "shopp"),
        (["train"], "`recllm train DATASET --out RUN`"),
        (["train", "shop", "--out", "a", "--gin.EPOCH=2"], "perhaps EPOCHS"),
        (["train", "shop", "--out", "a", "--gin_file=models/tyni.gin"], "models/tiny.gin"),
        (["eval"], "`recllm eval RUN`"),
        (["eval", "no/such/run"], "`recllm train DATASET --out no/such/run`"),
        (["infer", "--out", "f"], "`recllm infer RUN`"),
    ],
)
def test_errors_name_what_to_type(stores, monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert _main(*arguments, "--data_dir", stores / "data") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("recllm: error: ")
    assert not list(tmp_path.iterdir())
