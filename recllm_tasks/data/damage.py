"""Damage to a prepared dataset: finds the file that cannot be read, and says how to fix it.

Files are checked only after something failed. TFRecord's checksums detect all damage on reading,
but TensorFlow's error does not name the file.
"""

import json
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from recllm_tasks.data.dataset_info import DatasetInfo
from recllm_tasks.data.sequences import HELD_OUT
from recllm_tasks.errors import UserError

_TFDS_FILES = ("dataset_info.json", "features.json")


def check_undamaged(directory: str | Path) -> None:
    """Reads all files that TFDS wrote for the dataset in `directory` (see `dataset_dir`).

    Raises:
      UserError: a file is missing, damaged or truncated; the message names it.
    """
    directory = Path(directory)
    DatasetInfo.load(directory)
    for name in _TFDS_FILES:
        try:
            json.loads((directory / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(directory / name, str(error), "JSON as TFDS wrote it") from error
    try:
        splits = tfds.builder_from_directory(str(directory)).info.splits
    except Exception as error:
        got = f"{type(error).__name__} ({str(error).splitlines()[0]})"
        raise _damaged(directory / _TFDS_FILES[0], got, "valid facts") from error
    for split in HELD_OUT:
        if split not in splits:
            raise _damaged(directory / _TFDS_FILES[0], f"no split {split}", "three splits")
        for path, expected in zip(splits[split].filepaths, splits[split].shard_lengths):
            _check_shard(Path(path), expected)


def _check_shard(path: Path, expected: int) -> None:
    if not path.is_file():
        raise _damaged(path, "no such file", f"{expected:,} records")
    count = 0
    try:
        for _ in tf.data.TFRecordDataset(str(path)):
            count += 1
    except tf.errors.OpError as error:
        got = f"{count:,} valid records and then '{error.message.split('} ')[-1]}'"
        raise _damaged(path, got, f"{expected:,} records") from error
    if count != expected:
        raise _damaged(path, f"{count:,} records", f"{expected:,}")


def _damaged(path: Path, got: str, expected: str) -> UserError:
    name, data_dir = path.parents[1].name, path.parents[3]
    return UserError(
        f"damaged file for '{path}': got {got}, expected {expected}; run `recllm prepare {name} "
        f"--data_dir {data_dir} --overwrite` with the same files and --seed as before"
    )
