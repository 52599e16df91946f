"""MODEL_DIR and the files in it: whole or not there, and what is wrong with them in words."""

import dataclasses
import json

import gin
import pytest

from recllm_tasks.engine import run_folder, saved_run
from recllm_tasks.engine.run_folder import Run
from recllm_tasks.errors import UserError

RUN = Run(
    mixture="toys_ut",
    dataset="toys",
    fingerprint="a" * 64,
    lengths={"inputs": 8, "targets": 4},
    network={"emb_dim": 32, "mlp_dim": 64},
    seed=0,
    model="tiny",
)


@pytest.mark.parametrize("name", ["", "folder", "folder/", "missing/file", "file/below"])
def test_a_file_that_cannot_be_written_is_told_before_any_work(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    path = str(tmp_path / name) if name and not name.endswith("/") else name
    with pytest.raises(UserError, match="Cannot write"), run_folder.whole_file(path):
        pytest.fail("the block must not run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_file_is_not_replaced_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def stop_half_way():
        with run_folder.whole_file(path) as f:
            f.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_another_run_is_told_by_the_setting_that_differs(tmp_path):
    RUN.save(str(tmp_path))
    other = dataclasses.replace(RUN, network={"emb_dim": 32, "mlp_dim": 128})
    with pytest.raises(UserError, match=r"got network\.mlp_dim 128, expected 64 as there"):
        run_folder.open_for_training(str(tmp_path), other, None)


@pytest.mark.parametrize("change", [{"lengths": 5}, {"lengths": {"inputs": 3}}, {"new": 1}])
def test_a_run_file_of_another_make_is_told(tmp_path, change):
    content = json.dumps({**dataclasses.asdict(RUN), **change})
    for text in (content, content[:50], "", "[1]"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(UserError, match=r"Damaged run file '.*run\.json': got "):
            Run.load(str(tmp_path))


def test_a_network_of_another_make_is_told(tmp_path):
    dataclasses.replace(RUN, network={"no_such": 1}).save(str(tmp_path))
    with pytest.raises(UserError, match=r"Network of the run .*no_such"):
        saved_run.load(str(tmp_path))


def test_a_damaged_json_file_is_told(tmp_path):
    assert run_folder.read_json(tmp_path / "best.json") is None
    (tmp_path / "best.json").write_text("{")
    with pytest.raises(UserError, match=r"Damaged file '.*best\.json'"):
        run_folder.read_json(tmp_path / "best.json")


def test_a_dataset_prepared_otherwise_is_refused():
    RUN.check_dataset("toys", "a" * 64)
    RUN.check_dataset("beauty", "b" * 64)
    with pytest.raises(UserError, match=r"'toys' is not the one .* got fingerprint bbb"):
        RUN.check_dataset("toys", "b" * 64)


def test_another_vocabulary_than_the_runs_is_refused(tmp_path, clean_gin):
    for name, text in (("own", "1"), ("copy", "1"), ("other", "2")):
        (tmp_path / name).write_text(text)
    own = str(tmp_path / "own")
    saved_run.check_vocabulary(own)
    gin.bind_parameter("vocabulary.sentencepiece_file.path", str(tmp_path / "copy"))
    saved_run.check_vocabulary(own)
    gin.bind_parameter("vocabulary.sentencepiece_file.path", str(tmp_path / "other"))
    with pytest.raises(UserError, match="expected the run's own"):
        saved_run.check_vocabulary(own)
