"""`recllm stats` as users and programs see it."""

import dataclasses
import json

import pytest
import seqio

from recllm_tasks import cli
from recllm_tasks.data.dataset_info import dataset_dir, open_dataset

NAME = "gift_cards"


@pytest.fixture(autouse=True)
def _forget_data_dir():
    yield
    seqio.set_tfds_data_dir_override(None)


@pytest.fixture
def toys(tmp_path, small_data_dir):
    """Facts of a `toys` with the counts that the paper prints; without records."""
    info = open_dataset(small_data_dir, NAME)
    statistics = dataclasses.replace(
        info.statistics,
        users=19_412,
        items=11_924,
        interactions=167_597,
        sparsity=99.9276,
        train_windows=30_761,
    )
    directory = dataset_dir(tmp_path, "toys")
    directory.mkdir(parents=True)
    for name in ("catalog.parquet", "dataset_info.json", "features.json"):
        (directory / name).touch()
    dataclasses.replace(
        info, dataset="toys", has_ratings=False, statistics=statistics, split_counts=None
    ).save(directory)
    return tmp_path


def test_the_papers_numbers_are_beside_ours(toys, capsys):
    assert cli.main(["stats", "toys", "--data_dir", str(toys)]) == 0
    lines = capsys.readouterr().out.splitlines()
    paper, here = (
        next(line for line in lines if f" {name} " in line) for name in ("paper", "here")
    )
    assert paper.replace("paper", "here ") == here
    assert "19,412" in here
    assert "11,924" in here
    assert "167,597" in here
    assert "99.93" in here
    (ranking,) = (line for line in lines if " ranking " in line)
    for cell in ("30,761 / 30,761", "3,000 / 3,000", "19,412 / 19,412"):
        assert cell in ranking
    (rating,) = (line for line in lines if " rating " in line)
    assert "30,761 / –" in rating
    (mim,) = (line for line in lines if " mim " in line)
    assert "DS / DS" in mim


def test_a_dataset_that_is_not_in_the_paper(small_data_dir, capsys):
    assert cli.main(["stats", NAME, "--data_dir", str(small_data_dir)]) == 0
    shown = capsys.readouterr().out
    assert "paper" not in shown
    assert " rating " in shown


def test_json(toys, small_data_dir, capsys):
    assert cli.main(["stats", "toys", "--json", "--data_dir", str(toys)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["table_7"]["paper"]["interactions"] == 167_597
    assert found["table_7"]["here"]["interactions"] == 167_597
    for where in ("paper", "here"):
        retrieval = found["table_10"][where]["retrieval"]
        assert retrieval == {"train": 30_761, "validation": 3_000, "test": 19_412}
        assert found["table_10"][where]["mlm"] == {"train": None, "validation": 0, "test": 0}
    assert "rating" not in found["table_10"]["here"]
    assert cli.main(["stats", NAME, "--json", "--data_dir", str(small_data_dir)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fingerprint"] == open_dataset(small_data_dir, NAME).fingerprint
    assert found["table_7"]["paper"] is found["table_10"]["paper"] is None


def test_an_unknown_or_unprepared_dataset(tmp_path, capsys):
    assert cli.main(["stats", "toyz", "--data_dir", str(tmp_path)]) == 2
    assert "perhaps toys" in capsys.readouterr().err
    assert cli.main(["stats", "beauty", "--data_dir", str(tmp_path)]) == 2
    assert "recllm prepare beauty" in capsys.readouterr().err


def test_masks_are_counted_for_a_length(small_data_dir, capsys):
    arguments = ["stats", NAME, "--data_dir", str(small_data_dir), "--targets_length", "20"]
    assert cli.main([*arguments, "--json"]) == 0
    masks = json.loads(capsys.readouterr().out)["masks"]
    assert masks["lengths"] == {"inputs": 1024, "targets": 20}
    assert 0 < masks["mim"]["cut"] <= masks["mim"]["examples"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    share = 100 * masks["mlm"]["lost"] / masks["mlm"]["masks"]
    (mlm,) = (line for line in printed.splitlines() if " mlm " in line and "DS" not in line)
    assert f" {share:.1f} " in mlm


def test_a_length_for_masks_that_is_too_short(small_data_dir, capsys):
    arguments = ["stats", NAME, "--data_dir", str(small_data_dir), "--targets_length", "2"]
    assert cli.main(arguments) == 2
    assert "--targets_length: got 2, expected at least 3 tokens" in capsys.readouterr().err
