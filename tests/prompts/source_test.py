"""Validation is the first users in stored order, however many files and hosts there are."""

import pytest
import seqio
import tensorflow_datasets as tfds

from recllm_tasks.data import records
from recllm_tasks.prompts import source, windows
from recllm_tasks.prompts.batches import unbatch
from recllm_tasks.prompts.source import SequenceSource


@pytest.fixture
def three_files(tmp_path, monkeypatch, make_movies):
    """`movielens_100k` with three files a split; validation takes 12 of the 30 users.

    Records are read in batches of five.
    """
    from recllm_tasks.data.prepare import prepare

    make_movies(tmp_path / "raw")
    monkeypatch.setattr(records, "USERS_A_SHARD", 10)
    monkeypatch.setattr(source, "VALIDATION_USERS", 12)
    monkeypatch.setattr(windows, "SIZE", 5)
    prepare("movielens_100k", tmp_path / "data", tmp_path / "raw")
    seqio.set_tfds_data_dir_override(str(tmp_path / "data"))
    yield SequenceSource("movielens_100k")
    seqio.set_tfds_data_dir_override(None)


def _users(dataset):
    return [example["user"] for example in dataset.as_numpy_iterator()]


def test_validation_is_the_first_users_as_stored(three_files):
    assert len(three_files.list_shards("validation")) == 3
    builder = three_files.tfds_dataset.builder
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    stored = _users(builder.as_dataset(split="validation", read_config=in_order))
    assert len(stored) == 30
    for shuffle in (False, True):
        found = three_files.get_dataset("validation", shuffle=shuffle, seed=4)
        assert sorted(_users(unbatch(found))) == sorted(stored[:12])
    assert three_files.num_input_examples("validation") == 12


@pytest.mark.parametrize("hosts", [2, 5])
def test_hosts_share_the_validation_users(three_files, hosts):
    task = seqio.Task("own", three_files, {}, [unbatch], shuffle_buffer_size=None)
    parts = [
        _users(
            task.get_dataset({}, "validation", shuffle=False, shard_info=seqio.ShardInfo(i, hosts))
        )
        for i in range(hosts)
    ]
    together = [user for part in parts for user in part]
    assert len(together) == 12
    alone = three_files.get_dataset("validation", shuffle=False)
    assert sorted(together) == sorted(_users(unbatch(alone)))
