"""Damage to a prepared dataset is found, and the message names the file."""

import shutil

import pytest

from recllm_tasks.data.damage import check_undamaged
from recllm_tasks.errors import UserError

SHARD = "rec_sequences-test.tfrecord-00000-of-00001"


@pytest.fixture
def folder(small_data_dir, tmp_path):
    """A copy of a prepared dataset's folder, to be damaged."""
    return shutil.copytree(small_data_dir, tmp_path / "data") / "rec_sequences/gift_cards/1.0.0"


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)


def _empty(path):
    path.write_bytes(b"")


def _replace(path):
    path.write_bytes(b"this is another file")


def test_a_whole_dataset_is_not_damaged(folder):
    check_undamaged(folder)


@pytest.mark.parametrize("damage", [_cut, _flip, _empty, _replace, lambda path: path.unlink()])
@pytest.mark.parametrize("name", [SHARD, "dataset_info.json", "features.json"])
def test_each_damage_names_its_file(folder, name, damage):
    damage(folder / name)
    with pytest.raises(UserError, match=rf"{name}.* expected .*--overwrite"):
        check_undamaged(folder)


def test_a_shard_cut_between_records_is_damaged(folder):
    other = folder / SHARD.replace("test", "train")
    shutil.copy(folder / SHARD, other)
    other.write_bytes(b"")
    with pytest.raises(UserError, match=r"train.*got 0 records, expected 60;"):
        check_undamaged(folder)
