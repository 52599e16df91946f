"""MODEL_DIR: another run and damaged files are reported."""

import dataclasses
import json

import pytest

from recllm_tasks import checksums
from recllm_tasks.errors import UserError
from recllm_tasks.runs import run_folder
from recllm_tasks.runs.run_folder import Run

RUN = Run(
    mixture="toys_ut",
    dataset="toys",
    fingerprint="a" * 64,
    lengths={"inputs": 8, "targets": 4},
    network={"emb_dim": 32, "mlp_dim": 64},
    seed=0,
    model="tiny",
)


def test_another_run_is_refused_by_the_setting_that_differs(tmp_path):
    RUN.save(str(tmp_path))
    other = dataclasses.replace(RUN, network={"emb_dim": 32, "mlp_dim": 128})
    with pytest.raises(UserError, match=r"got network\.mlp_dim 128, expected 64"):
        run_folder.open_for_training(str(tmp_path), other, "", "")


def test_a_run_from_before_a_field_of_the_network_goes_on(tmp_path):
    RUN.save(str(tmp_path))
    (tmp_path / "vocabulary.model").write_text("")
    checksums.write(tmp_path, ["vocabulary.model"])
    later = dataclasses.replace(RUN, network={"emb_dim": 32, "mlp_dim": 64, "new_field": True})
    assert run_folder.open_for_training(str(tmp_path), later, "", "") == []


@pytest.mark.parametrize("change", [{"lengths": 5}, {"lengths": {"inputs": 3}}, {"new": 1}])
def test_a_damaged_run_file_is_reported(tmp_path, change):
    content = json.dumps({**dataclasses.asdict(RUN), **change})
    for text in (content, content[:50], "", "[1]"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(UserError, match=r"Damaged run file '.*run\.json': got "):
            Run.load(str(tmp_path))


def test_a_dataset_with_another_fingerprint_is_refused():
    RUN.check_dataset("toys", "a" * 64)
    RUN.check_dataset("beauty", "b" * 64)
    with pytest.raises(UserError, match=r"'toys' is not the one .* got fingerprint bbb"):
        RUN.check_dataset("toys", "b" * 64)


def test_a_folder_keeps_its_first_settings_and_those_that_changed(tmp_path):
    (tmp_path / "given.model").write_bytes(b"pieces")
    folder, vocabulary = tmp_path / "run", str(tmp_path / "given.model")
    folder.mkdir()
    run_folder.open_for_training(str(folder), RUN, vocabulary, "A = 1")
    assert Run.load(str(folder)) == RUN
    assert (folder / "vocabulary.model").read_bytes() == b"pieces"
    (tmp_path / "given.model").write_bytes(b"other")
    assert not run_folder.open_for_training(str(folder), RUN, vocabulary, "# A\nA = 1\n", 5)
    changes = run_folder.open_for_training(str(folder), RUN, vocabulary, "A = 2", 7)
    assert changes == ["A: started with 1, now 2"]
    assert (folder / "vocabulary.model").read_bytes() == b"pieces"
    assert (folder / "config.gin").read_text().startswith("A = 1\n# checksum: ")
    assert (folder / "config-7.gin").read_text().startswith("A = 2\n# checksum: ")
    assert not (folder / "config-5.gin").exists()


def test_values_of_several_lines_are_compared_whole(tmp_path):
    settings = "from a import b\nimport c\nlong.name = \\\n    {'a': 1,\n     'b': 2}\nB = 1\n"
    assert not run_folder.open_for_training(*_new(tmp_path), settings)
    changes = run_folder.open_for_training(*_new(tmp_path), settings.replace("2", "3"), 1)
    assert changes == ["long.name: started with {'a': 1, 'b': 2}, now {'a': 1, 'b': 3}"]


def _new(tmp_path):
    (tmp_path / "pieces").write_bytes(b"pieces")
    return str(tmp_path), RUN, str(tmp_path / "pieces")


def test_a_run_on_records_that_were_changed_is_refused(tmp_path):
    run = dataclasses.replace(RUN, records_digest="1" * 64)
    run.check_dataset("toys", "a" * 64, "1" * 64)
    with pytest.raises(UserError, match=r"Records of dataset 'toys' .* digest 222.* expected 111"):
        run.check_dataset("toys", "a" * 64, "2" * 64)


def test_an_older_run_has_no_digest_and_resumes(tmp_path):
    (tmp_path / "pieces").write_bytes(b"pieces")
    content = dataclasses.asdict(RUN)
    del content["records_digest"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    run = dataclasses.replace(RUN, records_digest="1" * 64)
    run_folder.open_for_training(str(tmp_path), run, str(tmp_path / "pieces"), "A = 1")
    run.save(str(tmp_path))
    other = dataclasses.replace(RUN, records_digest="2" * 64)
    with pytest.raises(UserError, match="Records of dataset"):
        run_folder.open_for_training(str(tmp_path), other, str(tmp_path / "pieces"), "A = 1")


def test_a_damaged_vocabulary_is_found_on_resuming(tmp_path):
    (tmp_path / "pieces").write_bytes(b"pieces")
    folder = tmp_path / "run"
    folder.mkdir()
    run_folder.open_for_training(str(folder), RUN, str(tmp_path / "pieces"), "")
    (folder / "vocabulary.model").write_bytes(b"piecez")
    with pytest.raises(UserError, match=r"Damaged file '.*vocabulary\.model'"):
        run_folder.open_for_training(str(folder), RUN, str(tmp_path / "pieces"), "")
