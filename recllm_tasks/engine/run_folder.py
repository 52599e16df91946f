"""A run's folder, MODEL_DIR: what it holds, and how it is written so that it never half exists.

run.json               what was trained on what: see `Run`
config.gin             every setting that took part
vocabulary.model       the SentencePiece model that the run reads and writes with
checkpoints/<step>/    the last state, for resuming (Orbax)
best/<step>/           the state that did best in validation, and `best.json`
events.out.tfevents.*  TensorBoard scalars
eval/<settings>/       beams of an evaluation that has not ended, see beam_cache.py
results.json           what `recllm eval` measured
per_user/              the same user by user, see per_user.py
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import IO, Any

import gin
import seqio

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
      initial_checkpoint: what training began with; None is random parameters.
      initial_step: what the first step was counted from.
    """

    mixture: str
    dataset: str
    fingerprint: str
    lengths: Mapping[str, int]
    network: Mapping[str, Any]
    seed: int
    model: str
    initial_checkpoint: str | None = None
    initial_step: int = 0

    def save(self, model_dir: str) -> None:
        write_json(pathlib.Path(model_dir) / FILE_NAME, dataclasses.asdict(self))

    def check_dataset(self, name: str, fingerprint: str) -> None:
        """Raises UserError if it is the run's dataset by name, but was prepared otherwise."""
        if name == self.dataset and fingerprint != self.fingerprint:
            raise UserError(
                f"Dataset '{name}' is not the one that the run was trained on: got fingerprint "
                f"{fingerprint[:12]}…, expected {self.fingerprint[:12]}…; items may have other ids "
                "now: prepare it from the same files with the same --seed as then, or train again"
            )

    @classmethod
    def load(cls, model_dir: str) -> "Run":
        path = pathlib.Path(model_dir) / FILE_NAME
        try:
            run = cls(**json.loads(path.read_text(encoding="utf-8")))
            if set(run.lengths) != {"inputs", "targets"}:
                raise ValueError(f"lengths {run.lengths}")
            return run
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"No run in '{model_dir}': expected {FILE_NAME}; train one with `recllm train … "
                f"--gin.MODEL_DIR=\"'{model_dir}'\"`"
            ) from None
        except (ValueError, TypeError) as error:
            raise UserError(
                f"Damaged run file '{path}': got {error}, expected what `recllm train` wrote; put "
                "back a copy of it, or train again in another folder"
            ) from error


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """A file that appears under its name only when it was written to its end; UTF-8 if text.

    Raises:
      UserError: at once, if there is no writing under that name.
    """
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        with _open_new(path, temporary, mode) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(temporary)


def _open_new(path: str | os.PathLike, temporary: str, mode: str) -> IO:
    try:
        if not os.path.basename(path) or os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return open(temporary, mode, encoding=None if "b" in mode else "utf-8")
    except OSError as error:
        raise UserError(
            f"Cannot write '{os.fspath(path)}': got {error.strerror}, expected the name of a file "
            "in a folder that is there and can be written; give another one"
        ) from error


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
    except ValueError as error:
        raise UserError(
            f"Damaged file '{os.fspath(path)}': got {error}, expected JSON; put back a copy of it, "
            "or delete it"
        ) from error


def open_for_training(model_dir: str, run: Run, vocabulary: seqio.Vocabulary) -> None:
    """Makes the folder, or checks that it holds the same run.

    Raises:
      UserError: the folder holds a run with other data, tasks, network or seed.
    """
    path = pathlib.Path(model_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make MODEL_DIR '{model_dir}': {error}") from error
    if (path / FILE_NAME).exists():
        found = _settings(Run.load(model_dir))
        for name, value in _settings(run).items():
            if found.get(name) != value:
                raise UserError(
                    f"MODEL_DIR '{model_dir}' holds another run: got {name} {value!r}, expected "
                    f"{found.get(name)!r} as there; choose another folder, or delete this one"
                )
        return
    temporary = path / f"{VOCABULARY}.tmp"
    shutil.copyfile(vocabulary.sentencepiece_model_file, temporary)
    os.replace(temporary, path / VOCABULARY)
    run.save(model_dir)


def _settings(run: Run) -> dict[str, Any]:
    """Every value of a run by its name, such as `network.emb_dim`."""
    settings = {}
    for name, value in dataclasses.asdict(run).items():
        within = value if isinstance(value, Mapping) else None
        settings |= {name: value} if within is None else {f"{name}.{k}": within[k] for k in within}
    return settings


def save_settings(model_dir: str) -> None:
    """Writes config.gin, every setting that has taken part so far."""
    with whole_file(pathlib.Path(model_dir) / "config.gin") as f:
        f.write(gin.operative_config_str())
