"""Runs the audit as a user does, on a small dataset that a test may damage."""

import json
import shutil

import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from recllm_tasks import cli
from recllm_tasks.audit import examples
from recllm_tasks.data.dataset_info import dataset_dir

NAME = "gift_cards"


class Stored:
    """A prepared dataset whose files a test can rewrite."""

    def __init__(self, data_dir):
        self.data_dir, self.directory = data_dir, dataset_dir(data_dir, NAME)

    def records(self, split):
        """User → record of a split."""
        builder = tfds.builder_from_directory(self.directory)
        records = tfds.as_numpy(builder.as_dataset(split))
        return {record["user"].decode(): record for record in records}

    def write(self, split, records):
        """Replaces the records of a split."""
        features = tfds.builder_from_directory(self.directory).info.features
        (path,) = self.directory.glob(f"*-{split}.tfrecord*")
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(features.serialize_example(record))

    def change(self, split, user, /, **features):
        """Replaces features of one record."""
        records = self.records(split)
        records[user].update(features)
        self.write(split, records.values())


@pytest.fixture
def stored(small_data_dir, tmp_path):
    shutil.copytree(small_data_dir, tmp_path / "data")
    return Stored(tmp_path / "data")


@pytest.fixture
def run_audit(capsys):
    """run_audit(data_dir): (exit code, {check: its JSON}) of `recllm audit --json`."""

    def run(data_dir, *arguments, dataset=NAME):
        code = cli.main(["audit", dataset, "--json", "--data_dir", str(data_dir), *arguments])
        checks = json.loads(capsys.readouterr().out)["checks"]
        return code, {check["name"]: check for check in checks}

    yield run
    seqio.set_tfds_data_dir_override(None)


@pytest.fixture
def only_tasks(monkeypatch):
    """only_tasks(task, …): the audit checks only these tasks."""

    def choose(*tasks):
        def tasks_of(dataset, split, with_numbers):
            return [task for task in tasks if split in task.splits]

        monkeypatch.setattr(examples, "tasks_of", tasks_of)

    return choose
