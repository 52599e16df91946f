"""Checkpoints of the Hugging Face Hub: fetched when asked, pinned to a commit, checked; and pushed.

`fetch` is the only function of the package that reads models from the Hub. Files go to the cache
that all programs of Hugging Face share ($HF_HOME/hub, ~/.cache/huggingface/hub). There the name of
a file is the checksum that the Hub gave for it; every use compares the two.

`push` is the only one that writes. It makes one commit, so that a dropped connection leaves no half
of a model. Our choice: it sends files in the way that every server of the Hub's API understands
(LFS), not through hf_xet, which commits large folders in parts.
"""

import contextlib
import fnmatch
import hashlib
import io
import os
import pathlib
import re
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, TypeVar

import recllm_tasks
from recllm_tasks import progress
from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write
from recllm_tasks.models.formats import hugging_face_folder
from recllm_tasks.models.formats.hugging_face_folder import CONFIG, INDEX, VOCABULARY, WHOLE

# Of the address of a checkpoint, hf://google/flan-t5-base@COMMIT, which runs record.
SCHEME = "hf://"

# Seconds before each attempt to reach the Hub. A dropped file is resumed by huggingface_hub, which
# has attempts of its own.
PAUSES = (0, 1, 3)

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# The kind of tokenizer tells a ByT5.
_SETTINGS = "tokenizer_config.json"
_BLOCK = 2**22

# Files of an earlier push that would be read in place of the new ones.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")

_Result = TypeVar("_Result")


class Snapshot(NamedTuple):
    """A checkpoint in the cache: the model's name, its commit, and the folder of its files."""

    name: str
    commit: str
    folder: pathlib.Path

    @property
    def address(self) -> str:
        return f"{SCHEME}{self.name}@{self.commit}"


def parse(text: str) -> tuple[str, str | None] | None:
    """(name, revision or None) of NAME[@REVISION], with or without hf://; None for other texts."""
    name, _, revision = text.removeprefix(SCHEME).partition("@")
    return (name, revision or None) if _NAME.fullmatch(name) else None


def cache_folder() -> pathlib.Path:
    return pathlib.Path(_library().constants.HF_HUB_CACHE)


def cached(address: str) -> pathlib.Path:
    """The folder of an address with a commit. Reads nothing from the Hub.

    Raises:
      UserError: the cache does not have it in full, or a file differs from its checksum.
    """
    name, revision = parse(address) or ("", None)
    folder = _complete(name, revision) if name and revision else None
    if folder is None:
        raise UserError(
            f"Checkpoint '{address}': got no full copy of it in {cache_folder()}, expected one; "
            f"fetch it with `recllm train DATASET --from {address.removeprefix(SCHEME)} --out RUN`"
        )
    for path in sorted(folder.iterdir()):
        if not _is_intact(path):
            raise UserError(
                f"Damaged file '{path}': got other bytes than the Hub's, expected those of its "
                f"checksum; fetch it again with `recllm train DATASET --from "
                f"{address.removeprefix(SCHEME)} --out RUN`"
            )
    return folder


def fetch(name: str, revision: str | None = None) -> Snapshot:
    """Fetches config.json, spiece.model and safetensors, as far as the cache lacks them.

    Args:
      name: such as google/flan-t5-base.
      revision: a branch, tag or commit; None is the main branch. A commit that the cache has in
        full is not asked for.

    Raises:
      UserError: huggingface_hub is not installed; the Hub cannot be reached and the cache has no
        full copy; there is no such model; it is none that can be trained; the Hub sends other bytes
        than it announces.
    """
    if revision and _COMMIT.fullmatch(revision):
        folder = _complete(name, revision)
        if folder is not None and all(map(_is_intact, folder.iterdir())):
            return Snapshot(name, revision, folder)
    try:
        info = _retried(
            lambda: _api().model_info(name, revision=revision, files_metadata=True, timeout=30)
        )
    except _library().errors.HfHubHTTPError as error:
        if _is_transient(error):
            return _offline(name, revision, error)
        raise _refused(name, revision, error) from error
    except _unreachable() as error:
        return _offline(name, revision, error)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    _check_files(name, sizes)
    first = [file for file in (CONFIG, _SETTINGS) if file in sizes]
    folder = _get(name, info.sha, {file: sizes[file] for file in first})
    hugging_face_folder.check_trainable(folder)
    if WHOLE not in sizes:
        _get(name, info.sha, {INDEX: sizes[INDEX]})
    weights = [WHOLE] if WHOLE in sizes else hugging_face_folder.shards(folder)
    lacking = sorted(set(weights) - set(sizes))
    if lacking:
        raise UserError(
            f"Model '{name}' of the Hub: got no {lacking[0]}, expected the files that its {INDEX} "
            "names; give another revision: --from NAME@REVISION"
        )
    _get(name, info.sha, {file: sizes[file] for file in (VOCABULARY, *weights)})
    _remember(folder, revision)
    return Snapshot(name, info.sha, folder)


def check_name(name: str) -> None:
    """Raises UserError unless a repository can have this name: NAME or OWNER/NAME."""
    try:
        _library().utils.validate_repo_id(name)
    except ValueError as error:
        raise UserError(
            f"--push: got '{name}', expected NAME or OWNER/NAME of letters, digits, '-', '_' and "
            "'.'; correct it"
        ) from error


def owned(name: str) -> str:
    """OWNER/NAME, where the owner is the one who is logged in if none is given.

    Raises:
      UserError: nobody is logged in, or the Hub cannot be reached.
    """
    if _library().get_token() is None:
        raise UserError(
            f"--push {name}: got no token, expected one that may write; log in with `hf auth "
            "login`, or set $HF_TOKEN"
        )
    with _pushing(name):
        user = _retried(lambda: _api().whoami())["name"]
    return name if "/" in name else f"{user}/{name}"


def push(folder: pathlib.Path, name: str, is_public: bool) -> str:
    """Uploads a folder for transformers as one commit; returns the commit's address.

    Weights of an earlier push are deleted by the same commit where the folder has no such file.

    Args:
      folder: all its files are uploaded, byte for byte.
      name: OWNER/NAME; made if there is none.
      is_public: whether all may read it. Our choice: only those who asked for it publish what was
        learned from people's purchases.

    Raises:
      UserError: the Hub cannot be reached or refuses; or there is a repository that is private
        where this one shall be public, or the reverse.
    """
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    sizes = sum(path.stat().st_size for path in files.values())
    with (
        contextlib.ExitStack() as stack,
        _pushing(name),
        progress.work(f"push {name}", sizes) as work,
    ):
        _retried(lambda: _api().create_repo(name, private=not is_public, exist_ok=True))
        found = _retried(lambda: _api().model_info(name, timeout=30))
        if bool(found.private) == is_public:
            have, asked = ("private", "--public") if is_public else ("public", "no --public")
            do = "leave out --public" if is_public else "give --public"
            raise UserError(
                f"--push {name}: got {asked} and a {have} repository, expected the two to agree; "
                f"{do}, or change the repository in its settings"
            )
        opened = {file: stack.enter_context(_Counted(path)) for file, path in files.items()}
        stale = [
            file.rfilename
            for file in found.siblings or ()
            if file.rfilename not in files
            and any(fnmatch.fnmatchcase(file.rfilename, pattern) for pattern in _WEIGHTS)
        ]
        operations = [
            *(_library().CommitOperationAdd(file, stream) for file, stream in opened.items()),
            *(_library().CommitOperationDelete(file) for file in stale),
        ]
        for file, stream in opened.items():
            stream.show(work, file)
        made = _api().create_commit(
            name, operations, commit_message=f"Upload of recllm_tasks {recllm_tasks.__version__}"
        )
    return str(made.commit_url)


class _Counted(io.BufferedReader):
    """A file whose sending is shown.

    huggingface_hub sends files that are given open without hf_xet.
    """

    def __init__(self, path: pathlib.Path):
        super().__init__(io.FileIO(path))
        self._work, self._name, self._sent = None, "", 0

    def show(self, work: progress.Work, name: str) -> None:
        """From here on; before, its checksum is computed."""
        self._work, self._name = work, name

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        # What is sent again after a failure counts once.
        if self._work is not None and self.tell() > self._sent:
            self._work.advance(self.tell() - self._sent, self._name)
            self._sent = self.tell()
        return content


@contextlib.contextmanager
def _pushing(name: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into a UserError."""
    utils = _library().utils
    had_bars = not utils.are_progress_bars_disabled()
    if had_bars:
        utils.disable_progress_bars()
    try:
        yield
    except UserError:
        raise
    # A ValueError says what of the folder the Hub refuses, a RuntimeError which file broke off.
    except (*_unreachable(), ValueError, RuntimeError) as error:
        raise _not_pushed(name, error) from error
    finally:
        if had_bars:
            utils.enable_progress_bars()


def _not_pushed(name: str, error: Exception) -> UserError:
    inner = error.__cause__
    cause = inner if type(error) is RuntimeError and isinstance(inner, Exception) else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, _library().errors.OfflineModeIsEnabled):
        do = "unset $HF_HUB_OFFLINE"
    elif status == 401:
        do = "the token is not valid: log in with `hf auth login`, or correct $HF_TOKEN"
    elif status in (403, 404):
        owner = name.partition("/")[0]
        do = f"give a token that may write to '{owner}', or a name of your own: --push NAME"
    elif isinstance(cause, _unreachable()) and _is_transient(cause):
        do = "check the network (and $HF_ENDPOINT), and push again"
    else:
        do = "look at its page"
    return UserError(
        f"--push {name}: got {_short(cause)}, expected to commit all files (never a part of them); "
        f"{do}"
    )


def _remember(folder: pathlib.Path, revision: str | None) -> None:
    """Writes what commit a branch or tag was, as huggingface_hub does for one file at a time."""
    if revision and _COMMIT.fullmatch(revision):
        return
    path = folder.parents[1] / "refs" / (revision or "main")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as f:
        f.write(folder.name)


def _get(name: str, commit: str, sizes: dict[str, int]) -> pathlib.Path:
    """Fetches files of a commit; returns their folder."""
    with progress.work(f"fetch {name}", sum(sizes.values())) as work:

        class Bar(_library().utils.tqdm):
            """Of huggingface_hub: shows nothing, and advances our own."""

            def __init__(self, *args: Any, **kwargs: Any):
                kwargs.pop("name", None)
                super().__init__(*args, **{**kwargs, "disable": True})

            def update(self, n: float | None = 1) -> None:
                work.advance(int(n or 0), file)

        for file in sizes:
            path = _file(name, commit, file, Bar)
            if not _is_intact(path):
                _remove(path)
                path = _file(name, commit, file, Bar)
            if not _is_intact(path):
                _remove(path)
                raise UserError(
                    f"File {file} of '{name}': got other bytes than its checksum says, twice, "
                    f"expected those of commit {commit[:12]}; try again later, or fetch it another "
                    "way and give its folder: --from FOLDER"
                )
    return path.parent


def _file(name: str, commit: str, file: str, bar: type) -> pathlib.Path:
    """The file in the cache, fetched if it is not there."""

    def get() -> str:
        return _library().hf_hub_download(
            name, file, revision=commit, cache_dir=cache_folder(), tqdm_class=bar, **_endpoint()
        )

    try:
        return pathlib.Path(_retried(get))
    except _unreachable() as error:
        raise UserError(
            f"File {file} of '{name}': got {_short(error)}, {len(PAUSES)} times, expected all of "
            f"it; check the network and the space of {cache_folder()}, and run the command again: "
            "complete files are kept"
        ) from error


def _retried(action: Callable[[], _Result]) -> _Result:
    for number, pause in enumerate(PAUSES, 1):
        time.sleep(pause)
        try:
            return action()
        except _unreachable() as error:
            if number == len(PAUSES) or not _is_transient(error):
                raise
    raise AssertionError


def _unreachable() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where a request fails; HTTPError is its HTTP client's."""
    return (OSError, _library().errors.HTTPError)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, _library().errors.OfflineModeIsEnabled):
        return False
    response = getattr(error, "response", None)
    return response is None or response.status_code >= 500 or response.status_code in (408, 429)


def _offline(name: str, revision: str | None, error: Exception) -> Snapshot:
    """The last copy in the cache, where the Hub cannot be reached."""
    folder = _complete(name, revision)
    if folder is None or not all(map(_is_intact, folder.iterdir())):
        raise UserError(
            f"Model '{name}' of the Hub: got {_short(error)}, and no full copy of it in "
            f"{cache_folder()}, expected one of the two; check the network (and $HF_ENDPOINT, "
            "$HF_HUB_OFFLINE), or fetch it where there is one (`hf download "
            f"{name} --local-dir FOLDER`), copy the folder here and give --from FOLDER"
        ) from error
    progress.console.print(
        f"the Hub cannot be reached ({_short(error)}); using the copy of {name} in the cache",
        markup=False,
        soft_wrap=True,
    )
    return Snapshot(name, folder.name, folder)


def _refused(name: str, revision: str | None, error: Exception) -> UserError:
    errors = _library().errors
    if isinstance(error, errors.GatedRepoError):
        got, do = (
            "a model that asks for consent",
            "give it on its page, then log in: `hf auth login`",
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        got, do = f"no revision '{revision}'", "give one that its page lists: --from NAME@REVISION"
    elif isinstance(error, errors.RepositoryNotFoundError):
        got = "no such model"
        do = "correct the name, such as google/flan-t5-base; for a private one, `hf auth login`"
    else:
        got, do = _short(error), "look at its page"
    return UserError(f"Model '{name}' of the Hub: got {got}, expected one that can be read; {do}")


def _check_files(name: str, files: Collection[str]) -> None:
    """Raises UserError unless the model has all that is needed."""
    if CONFIG not in files:
        raise UserError(
            f"Model '{name}' of the Hub: got no {CONFIG}, expected a model of transformers; give "
            "a T5 1.1 or FLAN-T5, such as google/flan-t5-base"
        )
    if WHOLE not in files and INDEX not in files:
        others = sorted(
            file for file in files if file.endswith((".bin", ".h5", ".msgpack", ".ckpt"))
        )
        raise UserError(
            f"Model '{name}' of the Hub: got {' and '.join(others) or 'no weights'}, expected "
            f"{WHOLE}: a pickle can run any code and is not read. Where the model has a pull "
            "request with safetensors, give --from NAME@refs/pr/N. If you trust its files, "
            f"T5ForConditionalGeneration.from_pretrained('{name}').save_pretrained(FOLDER) "
            f"converts them; put its {VOCABULARY} beside and give --from FOLDER"
        )
    if VOCABULARY not in files:
        raise UserError(hugging_face_folder.no_vocabulary(f"Model '{name}' of the Hub"))


def _complete(name: str, revision: str | None) -> pathlib.Path | None:
    """The folder of a revision in the cache, if all files are there."""
    find = _library().try_to_load_from_cache

    def has(file: str) -> bool:
        found = find(name, file, cache_dir=cache_folder(), revision=revision)
        return isinstance(found, str) and os.path.isfile(found)

    if not has(CONFIG) or not has(VOCABULARY):
        return None
    folder = pathlib.Path(find(name, CONFIG, cache_dir=cache_folder(), revision=revision)).parent
    if has(WHOLE):
        return folder
    return folder if has(INDEX) and all(map(has, hugging_face_folder.shards(folder))) else None


def _is_intact(path: pathlib.Path) -> bool:
    """Whether a file of the cache has the checksum that is its name there.

    That is SHA-256 for large files, git's for others. Where the cache has no links, nothing says
    the checksum, and the answer is yes.
    """
    blob = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        found = hashlib.sha256()
    elif _COMMIT.fullmatch(blob.name):
        found = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    else:
        return True
    with open(blob, "rb") as f:
        while block := f.read(_BLOCK):
            found.update(block)
    return found.hexdigest() == blob.name


def _remove(path: pathlib.Path) -> None:
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _short(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _api():
    return _library().HfApi(**_endpoint())


def _endpoint() -> dict[str, str | None]:
    return {"endpoint": os.environ.get("HF_ENDPOINT") or None}


def _library() -> Any:
    """huggingface_hub, without its own warnings."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise UserError(
            "The Hugging Face Hub: got no package huggingface_hub, expected it where --from or "
            "--push names a model; run `pip install 'recllm_tasks[hub]'`, or leave the Hub out: "
            "--from FOLDER, no --push"
        ) from error
    huggingface_hub.logging.set_verbosity_error()
    return huggingface_hub
