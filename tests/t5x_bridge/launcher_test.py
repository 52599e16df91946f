"""The launcher's errors, and what it hands to T5X; none of it needs T5X."""

import pytest

from recllm_tasks.t5x_bridge import __main__ as launcher
from recllm_tasks.t5x_bridge import imports


def _fails(capsys, *arguments):
    assert launcher.main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("t5x_bridge: error: ")
    assert "Traceback" not in error
    return error


def test_errors_say_how_to_fix_them(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("T5X_DIR", str(tmp_path))
    settings = ("--gin_file=models/tiny.gin", "--gin_file=runs/t5x_finetune.gin")
    assert "expected a checkout" in _fails(capsys, "train", *settings)
    monkeypatch.delenv("T5X_DIR")
    monkeypatch.setattr(imports, "_spec", lambda name: None)
    assert "launch/locks/t5x.txt" in _fails(capsys, "train", *settings)
    assert "runs/t5x_infer.gin" in _fails(capsys, "infer")
    assert "invalid choice: 'fit'" in _fails(capsys, "fit")


def test_t5x_gets_our_folders_and_values_in_gins_quotes():
    arguments = launcher.t5x_arguments(
        ["models/tiny.gin"],
        "/data",
        ["--gin.MODEL_DIR=gs://b/run", "--gin.A=3", "--gin.B=@f()", "--multiprocess_gpu"],
    )
    folders, *others = arguments
    assert folders.startswith("--gin_search_paths=.,/")
    assert others == [
        "--gin_file=models/tiny.gin",
        "--tfds_data_dir=/data",
        "--gin.MODEL_DIR='gs://b/run'",
        "--gin.A=3",
        "--gin.B=@f()",
        "--multiprocess_gpu",
    ]


def test_a_program_that_ends_well_is_no_error(monkeypatch):
    def end(code):
        def run_module(*args, **kwargs):
            raise SystemExit(code)

        return run_module

    for code in (None, 0):
        monkeypatch.setattr(launcher.runpy, "run_module", end(code))
        launcher.run("train", [])
    monkeypatch.setattr(launcher.runpy, "run_module", end(3))
    with pytest.raises(SystemExit):
        launcher.run("train", [])
