"""Records: sequences cut into shards, written by as many processes as there are cores.

`write_shard` is the one way of writing. It needs nothing but its shard, so that whatever can call a
function many times can write a dataset: this process, processes beside it, or a cluster
(`write_with_beam`). What is written does not depend on who writes it.
"""

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from recllm_tasks.data.negatives import SPLITS as SPLITS_WITH_NEGATIVES
from recllm_tasks.data.negatives import draw_negatives
from recllm_tasks.data.sequences import HELD_OUT, Sequences, open_record_order

# Our choice: some 50 MB, so that a writer holds little, and the paper's datasets have one shard.
USERS_A_SHARD = 65_536

_TRAIN_COUNT = "train_count"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records to be written: those from `start` to `stop` in the order of `split`.

    `path` is the file, `sequences_dir` what `plan_shards` completed; `seed` fixes the `negatives`
    negatives of a user.
    """

    path: str
    split: str
    start: int
    stop: int
    sequences_dir: str
    seed: int
    negatives: int


def plan_shards(
    sequences_dir: str | Path,
    train_count: np.ndarray,
    seed: int,
    negatives: int,
    templates: dict[str, tfds.core.ShardedFileTemplate],
) -> dict[str, list[Shard]]:
    """Cuts each split into shards of nearly equally many users, whatever the number of cores.

    Args:
      sequences_dir: what `order_sequences` filled; `train_count` (int64 [N]) is put there too.
      templates: names of each split's files.
    """
    np.asarray(train_count, np.int64).tofile(Path(sequences_dir) / _TRAIN_COUNT)
    plan = {}
    for split, template in templates.items():
        users = len(open_record_order(sequences_dir, split))
        num_shards = -(-users // USERS_A_SHARD)
        ends = [round(users * shard / num_shards) for shard in range(num_shards + 1)]
        plan[split] = [
            Shard(
                path=os.fspath(template.sharded_filepath(shard_index=i, num_shards=num_shards)),
                split=split,
                start=ends[i],
                stop=ends[i + 1],
                sequences_dir=str(sequences_dir),
                seed=seed,
                negatives=negatives,
            )
            for i in range(num_shards)
        ]
    return plan


def write_shard(shard: Shard) -> None:
    """Draws the negatives of the shard's users and writes their records; `OSError` if it cannot."""
    folder = Path(shard.sequences_dir)
    numbers = open_record_order(folder, shard.split)[shard.start : shard.stop]
    sequences = Sequences.open(folder).take(numbers)
    if shard.split in SPLITS_WITH_NEGATIVES:
        train_count = np.fromfile(folder / _TRAIN_COUNT, np.int64)
        negatives = draw_negatives(sequences, train_count, shard.seed, shard.split, shard.negatives)
    else:
        negatives = np.zeros([len(sequences.users), 0], np.int32)
    try:
        with tf.io.TFRecordWriter(shard.path) as file:
            for number, user in enumerate(sequences.users):
                held = sequences.of_split(number, shard.split)
                items, ratings = sequences.items[held], sequences.ratings[held]
                file.write(serialize(user, items, ratings, negatives[number]))
        with open(shard.path, "rb") as file:
            os.fsync(file.fileno())
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def serialize(user: str, items: np.ndarray, ratings: np.ndarray, negatives: np.ndarray) -> bytes:
    """One record as TFDS writes it, but always the same bytes: its own writer leaves the order of
    the features to the process."""
    features = {
        "user": tf.train.Feature(bytes_list=tf.train.BytesList(value=[user.encode()])),
        "items": tf.train.Feature(int64_list=tf.train.Int64List(value=items.tolist())),
        "ratings": tf.train.Feature(float_list=tf.train.FloatList(value=ratings.tolist())),
        "negatives": tf.train.Feature(int64_list=tf.train.Int64List(value=negatives.tolist())),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def write_locally(shards: Sequence[Shard], advance: Callable[[Shard], None]) -> None:
    """Writes all shards on this machine's cores; calls `advance` as each is done."""
    workers = min(len(shards), os.cpu_count() or 1)
    if workers == 1 or len(shards) <= len(HELD_OUT):
        # A process costs seconds to start, and a small dataset is written in as many.
        for shard in shards:
            write_shard(shard)
            advance(shard)
        return
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def write(shard: Shard) -> Shard:
        worker = idle.get()
        try:
            worker.write(shard)
        finally:
            idle.put(worker)
        return shard

    # The processes end first, and so no thread waits for one when something went wrong.
    with ThreadPoolExecutor(workers) as threads, contextlib.ExitStack() as stack:
        for _ in range(workers):
            idle.put(stack.enter_context(_Worker()))
        try:
            for shard in threads.map(write, shards):
                advance(shard)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


class _Worker:
    """A process that writes shards: one in JSON a line to it, and a line of what went wrong back.

    Our choice over `multiprocessing`, which would import the caller's script once more in each
    process, and whose processes outlive a killed parent. This one ends with its input.
    """

    def __enter__(self) -> "_Worker":
        command = [sys.executable, "-m", __spec__.name]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
            text=True,
        )
        return self

    def write(self, shard: Shard) -> None:
        reply = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(dataclasses.asdict(shard)) + "\n")
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
        if not reply:
            code = self._process.wait()
            raise OSError(f"a writing process ended with code {code}, perhaps for lack of memory")
        problem = json.loads(reply)
        if problem:
            raise OSError(problem)

    def __exit__(self, *exception) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


def serve() -> None:
    """What `_Worker` runs: reads shards from standard input until it ends."""
    replies, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        problem = ""
        try:
            write_shard(Shard(**json.loads(line)))
        except KeyboardInterrupt:
            return
        except Exception as error:
            problem = getattr(error, "strerror", None) or f"{error}" or type(error).__name__
        replies.write(json.dumps(problem) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve()
