"""A run's folder, MODEL_DIR: what it holds, and how it is written so that it never half exists.

run.json               what was trained on what: see `Run`
config.gin             every setting that took part
vocabulary.model       the SentencePiece model that the run reads and writes with
checkpoints/<step>/    the last state, for resuming (Orbax)
best/<step>/           the state that did best in validation, and `best.json`
events.out.tfevents.*  TensorBoard scalars
eval/<settings>/       beams of an evaluation that has not ended, see finished_chunks.py
results.json           what `recllm eval` measured
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import IO, Any

import gin
import seqio

from recllm_tasks.data.dataset_info import DatasetInfo
from recllm_tasks.errors import UserError

FILE_NAME = "run.json"
VOCABULARY = "vocabulary.model"


@dataclasses.dataclass(frozen=True)
class Run:
    """What must be known to use a run's checkpoints.

    Attributes:
      mixture: the task or mixture it was trained on.
      dataset: the dataset of its tasks.
      fingerprint: of that dataset, as `recllm prepare` made it.
      lengths: TASK_FEATURE_LENGTHS.
      network: the fields of `T5Config`.
      seed: RANDOM_SEED.
      model: a name for tables, such as `tiny`.
    """

    mixture: str
    dataset: str
    fingerprint: str
    lengths: Mapping[str, int]
    network: Mapping[str, Any]
    seed: int
    model: str

    def save(self, model_dir: str) -> None:
        write_json(pathlib.Path(model_dir) / FILE_NAME, dataclasses.asdict(self))

    @classmethod
    def load(cls, model_dir: str) -> "Run":
        path = pathlib.Path(model_dir) / FILE_NAME
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            raise UserError(
                f"No run in '{model_dir}': expected {FILE_NAME}; train one with `recllm train … "
                f"--gin.MODEL_DIR=\"'{model_dir}'\"`"
            ) from None
        except (ValueError, TypeError) as error:
            raise UserError(f"Broken run file '{path}': {error}; train again") from error

    def check_data(self, info: DatasetInfo) -> None:
        """Raises UserError if the run's dataset was prepared anew, with other ids for its items."""
        if info.dataset == self.dataset and info.fingerprint != self.fingerprint:
            raise UserError(
                f"Dataset '{info.dataset}' for this run: got another preparation (fingerprint "
                f"{info.fingerprint[:12]}), expected that of its training "
                f"({self.fingerprint[:12]}); prepare it from the same files with the same seed, or "
                "correct the data folder"
            )


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """A file that appears under its name only when it was written to its end.

    Args:
      path: its name.
      mode: `w` for text in UTF-8, `wb` for bytes.
    """
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    with whole_file(path) as f:
        json.dump(content, f, indent=2)
        f.write("\n")


def read_json(path: str | os.PathLike) -> dict[str, Any] | None:
    """The content of a JSON file, or None where there is no such file."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def open_for_training(model_dir: str, run: Run, vocabulary: seqio.Vocabulary) -> bool:
    """Makes the folder, or checks that it holds the same run; returns whether it was there.

    Raises:
      UserError: the folder holds a run with other data, tasks, network or seed.
    """
    path = pathlib.Path(model_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make MODEL_DIR '{model_dir}': {error}") from error
    if (path / FILE_NAME).exists():
        found = dataclasses.asdict(Run.load(model_dir))
        for name, value in dataclasses.asdict(run).items():
            if found[name] != value:
                raise UserError(
                    f"MODEL_DIR '{model_dir}' holds another run: got {name} {value!r}, expected "
                    f"{found[name]!r} as there; choose another folder, or delete this one"
                )
        return True
    temporary = path / f"{VOCABULARY}.tmp"
    shutil.copyfile(vocabulary.sentencepiece_model_file, temporary)
    os.replace(temporary, path / VOCABULARY)
    run.save(model_dir)
    return False


def save_settings(model_dir: str) -> None:
    """Writes config.gin, every setting that has taken part so far."""
    with whole_file(pathlib.Path(model_dir) / "config.gin") as f:
        f.write(gin.operative_config_str())
