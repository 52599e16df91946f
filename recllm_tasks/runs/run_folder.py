"""A run's folder, MODEL_DIR.

run.json               what was trained on what: see `Run`
config.gin             every setting that the run started with
config-<step>.gin      those with which it was resumed at a step, where they are others
vocabulary.model       the SentencePiece model that the run reads and writes with
checksums.json         of vocabulary.model; JSON and config.gin hold their own
checkpoints/<step>/    the last state, to resume from (Orbax)
best/<step>/           the state that did best in validation, and `best.json`
added_items.json       items that came after training: see data/added_items.py
events.out.tfevents.*  TensorBoard scalars
eval/<settings>/       beams of an unfinished evaluation
results.json           the latest evaluation; results/ and per_user/ hold all: see results.py
"""

import contextlib
import dataclasses
import pathlib
import shlex
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from recllm_tasks import checksums
from recllm_tasks.errors import UserError
from recllm_tasks.files import (
    LOCK,
    atomic_write,
    from_object,
    locked,
    parse_json,
    write_json,
    write_settings,
)

FILE_NAME = "run.json"
VOCABULARY = "vocabulary.model"
SETTINGS = "config.gin"


@dataclasses.dataclass(frozen=True)
class Run:
    """What is needed to use a run's checkpoints.

    Attributes:
      mixture: the task or mixture that it was trained on.
      dataset: the dataset of its tasks.
      fingerprint: of that dataset.
      lengths: TASK_FEATURE_LENGTHS.
      network: the fields of `T5Config`.
      seed: RANDOM_SEED.
      model: a name for tables, such as `tiny`.
      initial_checkpoint: where training started from; None is random parameters.
      initial_step: the step that training started from.
      records_digest: of that dataset's records; "" if it was prepared without one.
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
    records_digest: str = ""

    def save(self, model_dir: str) -> None:
        write_json(pathlib.Path(model_dir) / FILE_NAME, dataclasses.asdict(self))

    def check_dataset(self, name: str, fingerprint: str, records_digest: str = "") -> None:
        """Raises UserError if a dataset of the run's name has another fingerprint or records."""
        if name == self.dataset and fingerprint != self.fingerprint:
            raise UserError(
                f"Dataset '{name}' is not the one that the run was trained on: got fingerprint "
                f"{fingerprint[:12]}…, expected {self.fingerprint[:12]}…; the item ids may differ: "
                "prepare it from the same files with the same --seed, or train again; after "
                f"`prepare --append`: `recllm train {name} --from OLD_RUN --out NEW_RUN`"
            )
        digests = (records_digest, self.records_digest)
        if name == self.dataset and all(digests) and digests[0] != digests[1]:
            raise UserError(
                f"Records of dataset '{name}' are not those that the run was trained on: got "
                f"digest {digests[0][:12]}…, expected {digests[1][:12]}…; see whether `recllm "
                f"audit {name}` finds them changed; if so, prepare it again with --overwrite"
            )

    @classmethod
    def load(cls, model_dir: str) -> "Run":
        path = pathlib.Path(model_dir) / FILE_NAME
        try:
            run = from_object(cls, parse_json(path.read_bytes()))
            if not isinstance(run.lengths, dict) or set(run.lengths) != {"inputs", "targets"}:
                raise ValueError(f"lengths {run.lengths}")
            return run
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"No run in '{model_dir}': expected {FILE_NAME}; train one with `recllm train "
                f"DATASET --out {shlex.quote(str(model_dir))}`"
            ) from None
        except ValueError as error:
            raise UserError(
                f"Damaged run file '{path}': got {error}, expected the file that `recllm "
                "train` wrote; restore it from a copy, or train again in another folder"
            ) from error


@contextlib.contextmanager
def held(model_dir: str) -> Iterator[None]:
    """Creates the folder, and holds it for this process while the block runs.

    If the block writes nothing, a folder that was created is removed again.

    Raises:
      UserError: another process trains in the folder, or it cannot be created or written to.
    """
    path = pathlib.Path(model_dir)
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot create MODEL_DIR '{model_dir}': got {error.strerror}, expected a writable "
            "folder; choose another one"
        ) from error
    try:
        with locked(path, "training"):
            yield
    finally:
        if is_new and all(child.name == LOCK for child in path.iterdir()):
            shutil.rmtree(path)


def open_for_training(
    model_dir: str, run: Run, vocabulary: str, settings: str, done: int | None = None
) -> list[str]:
    """Fills the folder, or checks that it holds the same run.

    Args:
      model_dir: the folder, which is `held`.
      run: written to a new folder; must equal the run of an existing one.
      vocabulary: file that is copied into a new folder.
      settings: text of config.gin.
      done: the step at which the run is resumed; None if it has no state yet.

    Returns:
      The settings that are others than those that the run started with, one line each.

    Raises:
      UserError: the folder holds a run with other data, tasks, network or seed.
    """
    path = pathlib.Path(model_dir)
    if (path / FILE_NAME).exists():
        before = Run.load(model_dir)
        checksums.check(path, "restore it from a copy, or train in another folder", [VOCABULARY])
        found = _flat(before)
        for name, value in _flat(run).items():
            # A field of the network that the run's version did not have is at its default.
            is_known = name in found or not name.startswith("network.")
            if is_known and found.get(name) != value:
                raise UserError(
                    f"MODEL_DIR '{model_dir}' holds another run: got {name} {value!r}, expected "
                    f"{found.get(name)!r}; choose another folder (--out), or delete this one"
                )
        before.check_dataset(run.dataset, run.fingerprint, run.records_digest)
    else:
        with open(vocabulary, "rb") as source, atomic_write(path / VOCABULARY, "wb") as f:
            shutil.copyfileobj(source, f)
        checksums.write(path, [VOCABULARY])
        run.save(model_dir)
    if done is None or not (path / SETTINGS).exists():
        write_settings(path / SETTINGS, settings)
        return []
    changes = changed_settings((path / SETTINGS).read_text(encoding="utf-8"), settings)
    if changes:
        write_settings(path / f"{SETTINGS.removesuffix('.gin')}-{done}.gin", settings)
    return changes


def changed_settings(before: str, now: str) -> list[str]:
    """The settings, texts of gin, that differ, one line each."""
    then, new = _bindings(before), _bindings(now)
    return [
        f"{name}: started with {then.get(name, 'nothing')}, now {new.get(name, 'nothing')}"
        for name in sorted({*then, *new})
        if then.get(name) != new.get(name)
    ]


def _bindings(settings: str) -> dict[str, str]:
    """The values of gin's text by name; a value may go on over several lines."""
    found, name = {}, ""
    for line in settings.splitlines():
        if line.startswith(("#", "import ", "from ")) or not line.strip():
            continue
        left, equals, right = line.partition(" =")
        if equals and not line[0].isspace():
            name = left
            found[name] = right.strip().removesuffix("\\")
        else:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _flat(run: Run) -> dict[str, Any]:
    """Every value of a run by its name, such as `network.emb_dim`; not the records' digest."""
    flat = {}
    for name, value in dataclasses.asdict(run).items():
        if name == "records_digest":
            continue
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat
