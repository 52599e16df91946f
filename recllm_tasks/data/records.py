"""Records: sequences cut into shards, written in parallel.

All records are written by `write_shard`. It needs nothing but its shard, so shards can be written
by this process, by worker processes (`write_locally`) or by a cluster (`write_on_beam`). The files
are the same either way.
"""

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from recllm_tasks.data.negatives import SPLITS as SPLITS_WITH_NEGATIVES
from recllm_tasks.data.negatives import draw_negatives
from recllm_tasks.data.sequences import HELD_OUT, Sequences, open_record_order
from recllm_tasks.errors import UserError

# Our choice: some 50 MB, so a writer needs little memory; the paper's datasets have one shard.
USERS_A_SHARD = 65_536

_TRAIN_COUNT = "train_count"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records to write: those from `start` to `stop` in the order of `split`.

    `path` is the file, `sequences_dir` the folder that `plan_shards` completed, `negatives` the
    number of negatives per user, which `seed` fixes, and `distinct` whether they are different
    items.
    """

    path: str
    split: str
    start: int
    stop: int
    sequences_dir: str
    seed: int
    negatives: int
    distinct: bool = False


def plan_shards(
    sequences_dir: str | Path,
    train_count: np.ndarray,
    seed: int,
    negatives: int,
    distinct: bool,
    templates: dict[str, tfds.core.ShardedFileTemplate],
) -> dict[str, list[Shard]]:
    """Cuts each split into shards of nearly equal size, independent of the number of cores.

    Args:
      sequences_dir: the folder that `order_sequences` filled; `train_count` is stored there too.
      train_count: int64 [N], how often each item occurs in the train split.
      seed: for the negatives.
      negatives: number of negatives per user.
      distinct: whether a user's negatives are different items.
      templates: file names by split.
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
                distinct=distinct,
            )
            for i in range(num_shards)
        ]
    return plan


def write_shard(shard: Shard) -> None:
    """Draws the negatives of the shard's users and writes their records, or raises `OSError`."""
    folder = Path(shard.sequences_dir)
    numbers = open_record_order(folder, shard.split)[shard.start : shard.stop]
    sequences = Sequences.open(folder).take(numbers)
    if shard.split in SPLITS_WITH_NEGATIVES:
        train_count = np.fromfile(folder / _TRAIN_COUNT, np.int64)
        negatives = draw_negatives(
            sequences, train_count, shard.seed, shard.split, shard.negatives, shard.distinct
        )
    else:
        negatives = np.zeros([len(sequences.users), 0], np.int32)
    try:
        with tf.io.TFRecordWriter(shard.path) as file:
            for number, user in enumerate(sequences.users):
                held = sequences.entries(number, shard.split)
                items, ratings = sequences.items[held], sequences.ratings[held]
                file.write(serialize(user, items, ratings, negatives[number]))
        with open(shard.path, "rb") as file:
            os.fsync(file.fileno())
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def serialize(user: str, items: np.ndarray, ratings: np.ndarray, negatives: np.ndarray) -> bytes:
    """One record as TFDS writes it, but with deterministic bytes: TFDS fixes no feature order."""
    features = {
        "user": tf.train.Feature(bytes_list=tf.train.BytesList(value=[user.encode()])),
        "items": tf.train.Feature(int64_list=tf.train.Int64List(value=items.tolist())),
        "ratings": tf.train.Feature(float_list=tf.train.FloatList(value=ratings.tolist())),
        "negatives": tf.train.Feature(int64_list=tf.train.Int64List(value=negatives.tolist())),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def write_locally(shards: Sequence[Shard], advance: Callable[[Shard], None]) -> None:
    """Writes all shards with one process per core; calls `advance` after each shard."""
    workers = min(len(shards), os.cpu_count() or 1)
    if workers == 1 or len(shards) <= len(HELD_OUT):
        # Starting a process takes seconds, as long as writing a small dataset.
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

    # The processes end before the threads, so no thread waits for one after an error.
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
    """A process that writes shards. It reads one per line as JSON and replies with an error or "".

    Our choice over `multiprocessing`, which imports the caller's script again in each process, and
    whose processes outlive a killed parent. This one ends when its input ends.
    """

    def __enter__(self) -> "_Worker":
        command = [sys.executable, "-m", __spec__.name]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        return self

    def write(self, shard: Shard) -> None:
        reply = ""
        with contextlib.suppress(BrokenPipeError):
            self._requests.write(json.dumps(dataclasses.asdict(shard)) + "\n")
            self._requests.flush()
            reply = self._replies.readline()
        if not reply:
            self._raise_ended(self._process.wait())
        problem = json.loads(reply)
        if problem:
            raise OSError(problem)

    def _raise_ended(self, code: int) -> NoReturn:
        """Raises OSError if the process was killed, and RuntimeError if it failed."""
        self._errors.seek(0)
        written = self._errors.read().decode(errors="replace").strip()
        if code > 0:
            raise RuntimeError(f"a writer process failed with code {code}:\n{written}")
        last = f": {written.splitlines()[-1]}" if written else ""
        raise OSError(f"a writer process ended with code {code}, perhaps out of memory{last}")

    def __exit__(self, *exception) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()
        self._replies.close()
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()


def write_on_beam(shards: Sequence[Shard], options: Sequence[str] = ()) -> None:
    """Writes each shard in a worker of an Apache Beam pipeline, here or on a cluster.

    Use it as `prepare(..., write=write_on_beam)`. The workers use the paths in the shards, so the
    data folder must be one that all of them see. Install apache-beam in a separate environment:
    Beam 2.77 needs protobuf < 7 and pyarrow < 26, older than in launch/locks/.

    Args:
      shards: what to write.
      options: Beam's command line, such as `["--runner=FlinkRunner", "--parallelism=64"]`; by
        default, Beam runs on this machine.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        # Without the reshuffle, Beam fuses both steps, and one worker writes everything.
        _ = pipeline | beam.Create(shards) | beam.Reshuffle() | beam.Map(write_shard)


def serve() -> None:
    """The program of `_Worker`: writes the shards on standard input until it ends."""
    replies, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        problem = ""
        try:
            write_shard(Shard(**json.loads(line)))
        except KeyboardInterrupt:
            return
        except (OSError, MemoryError, UserError) as error:
            problem = getattr(error, "strerror", None) or f"{error}" or type(error).__name__
        replies.write(json.dumps(problem) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve()
