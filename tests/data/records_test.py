import io
import json
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from recllm_tasks.data import records
from recllm_tasks.data.builder import RecSequences
from recllm_tasks.data.prepare import dataset_dir, prepare

NAME = "gift_cards"


def contents(data_dir):
    return {path.name: path.read_bytes() for path in dataset_dir(data_dir, NAME).iterdir()}


@pytest.fixture
def three_users_a_shard(monkeypatch):
    monkeypatch.setattr(records, "USERS_A_SHARD", 3)


def write_here(shards):
    for shard in shards[::-1]:
        records.write_shard(shard)


@pytest.mark.usefixtures("three_users_a_shard")
def test_shards_do_not_depend_on_who_writes_them(tmp_path, raw_dir, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    prepare(NAME, tmp_path / "processes", raw_dir)
    prepare(NAME, tmp_path / "here", raw_dir, write=write_here)
    assert contents(tmp_path / "processes") == contents(tmp_path / "here")
    assert "rec_sequences-test.tfrecord-00002-of-00003" in contents(tmp_path / "here")


@pytest.mark.usefixtures("three_users_a_shard")
def test_shards_hold_what_one_shard_holds_in_the_same_order(tmp_path, raw_dir, monkeypatch):
    prepare(NAME, tmp_path / "many", raw_dir, write=write_here)
    monkeypatch.undo()
    prepare(NAME, tmp_path / "one", raw_dir)
    for split in ("train", "validation", "test"):
        users = []
        for data_dir in ("many", "one"):
            builder = tfds.builder_from_directory(dataset_dir(tmp_path / data_dir, NAME))
            examples = list(tfds.as_numpy(builder.as_dataset(split)))
            users.append([str(example) for example in examples])
            assert builder.info.splits[split].num_examples == 8
        assert users[0] == users[1]


def test_bytes_are_those_of_tfds_with_sorted_features():
    info = RecSequences(config=NAME, data_dir="/nowhere").info.features.get_serialized_info()
    serializer = example_serializer.ExampleSerializer(info)
    for record in (
        (
            "ü/\\ 😀",
            np.int32([0, 500_000, 2**31 - 1]),
            np.float32([np.nan, 1.5, -2]),
            np.int32([7]),
        ),
        ("u", np.int32([]), np.float32([]), np.int32([])),
    ):
        example = dict(zip(("user", "items", "ratings", "negatives"), record))
        expected = serializer.get_tf_example(example).SerializeToString(deterministic=True)
        assert records.serialize(*record) == expected


def test_what_a_process_cannot_write_is_an_os_error(tmp_path):
    shards = [
        records.Shard(str(tmp_path / "x"), "train", 0, 1, str(tmp_path / "absent"), 0, 99)
    ] * 4
    with pytest.raises(OSError, match="No such file"):
        records.write_locally(shards, lambda shard: None)


def test_process_that_dies_is_an_os_error(tmp_path, monkeypatch):
    monkeypatch.setattr(records.sys, "executable", "/bin/true")
    shards = [records.Shard("x", "train", 0, 1, "y", 0, 99)] * 4
    with pytest.raises(OSError, match="ended with code 0"):
        records.write_locally(shards, lambda shard: None)


def _dying(tmp_path, monkeypatch, script):
    """Shards whose writer process is a shell script."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(records.sys, "executable", str(program))
    return [records.Shard("x", "train", 0, 1, "y", 0, 99)] * 4


def test_the_last_words_of_a_process_that_is_killed_are_shown(tmp_path, monkeypatch):
    shards = _dying(tmp_path, monkeypatch, "echo no memory is left >&2; kill -9 $$")
    with pytest.raises(OSError, match=r"ended with code -9, .*: no memory is left$"):
        records.write_locally(shards, lambda shard: None)


def test_a_bug_in_a_process_is_no_os_error(tmp_path, monkeypatch):
    shards = _dying(tmp_path, monkeypatch, "echo 'Traceback\n  x\nTypeError: bug' >&2; exit 1")
    with pytest.raises(RuntimeError, match=r"Traceback\n(.|\n)*TypeError: bug"):
        records.write_locally(shards, lambda shard: None)


def test_a_process_reports_errors_of_the_system_only(monkeypatch):
    line = json.dumps(vars(records.Shard("x", "train", 0, 1, "y", 0, 99)))
    for error in (OSError(28, "No space left"), MemoryError("no memory"), TypeError("bug")):
        monkeypatch.setattr(records, "write_shard", mock.Mock(side_effect=error))
        monkeypatch.setattr(records.sys, "stdin", [line])
        monkeypatch.setattr(records.sys, "stdout", replies := io.StringIO())
        if isinstance(error, TypeError):
            with pytest.raises(TypeError, match="bug"):
                records.serve()
        else:
            records.serve()
            assert json.loads(replies.getvalue()) in ("No space left", "no memory")


def test_disk_that_is_full_is_an_os_error(tmp_path, raw_dir):
    def write(shards):
        full = [records.dataclasses.replace(shard, path="/dev/full") for shard in shards]
        with pytest.raises(OSError, match="No space left"):
            records.write_shard(full[0])
        write_here(shards)

    if not tf.io.gfile.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    prepare(NAME, tmp_path, raw_dir, write=write)


@pytest.mark.parametrize("options", [[], ["--direct_running_mode=multi_processing"]])
def test_beam_writes_the_same_files(tmp_path, raw_dir, monkeypatch, options):
    pytest.importorskip("apache_beam", reason="needs apache-beam")
    monkeypatch.setattr(records, "USERS_A_SHARD", 3)
    files = []
    for data_dir, write in (
        (tmp_path / "beam", lambda shards: records.write_on_beam(shards, options)),
        (tmp_path / "here", None),
    ):
        prepare("gift_cards", data_dir, raw_dir, write=write)
        folder = dataset_dir(data_dir, "gift_cards")
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert "rec_sequences-test.tfrecord-00002-of-00003" in files[0]
    # Parquet names the version of its writer, so files are compared within one environment.
    assert files[0] == files[1]
