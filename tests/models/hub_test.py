"""`recllm train --from`, and the fetching, against a local server that speaks the Hub's API."""

import base64
import hashlib
import http.server
import json
import pathlib
import shutil
import socket
import sys
import threading
import time
import urllib.parse

import gin
import numpy as np
import pytest
import sentencepiece
import seqio

from recllm_tasks import cli
from recllm_tasks.commands import convert
from recllm_tasks.errors import UserError
from recllm_tasks.models import hub
from recllm_tasks.models.config import T5Config
from recllm_tasks.models.formats import conversion, hugging_face_folder
from recllm_tasks.models.formats.checkpoint import Target
from recllm_tasks.models.formats.parameters import shapes_of

huggingface_hub = pytest.importorskip("huggingface_hub")

NAME = "google/flan-t5-tiny"
COMMIT = "1" * 40
TOKEN = "hf_of_a_test"
CONFIG = T5Config(
    vocab_size=512,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=24,
)


def random_folder(folder: pathlib.Path, shards: bool) -> pathlib.Path:
    """A T5 1.1 of random weights with a vocabulary of 256 bytes and sentinels."""
    rng = np.random.default_rng(0)
    arrays = {
        path: rng.normal(0, 0.05, shape).astype(np.float32)
        for path, shape in shapes_of(CONFIG).items()
    }
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        if shards:
            patch.setattr(hugging_face_folder, "SHARD_BYTES", 2**15)
        target = Target(folder, CONFIG, np.dtype(np.float32), 0)
        with hugging_face_folder.writer(target) as write:
            for path, array in arrays.items():
                write(path, array)
    change(folder, tie_word_embeddings=False, scale_decoder_outputs=None)
    words = (f"word{number % 91} price title user buys I{number}" for number in range(400))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_prefix=str(folder / "spiece"),
        vocab_size=400,
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    return folder


def change(folder: pathlib.Path, **settings) -> None:
    path = folder / "config.json"
    stored = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: v for k, v in stored.items() if v is not None}))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "whole": random_folder(folder / "whole", shards=False),
        "sharded": random_folder(folder / "sharded", shards=True),
    }


class Hub(http.server.ThreadingHTTPServer):
    """The Hub's API for one model of one commit, and for repositories to push to.

    `drops` says after how many bytes the next answers with a file break off; `bytes_of` replaces
    the bytes of a file, but not what is said of them; `status` answers everything so. `breaks` is
    a part of an address: requests to it are read half, and the connection is closed.
    """

    daemon_threads = True
    breaks = ""

    def __init__(self, folder: pathlib.Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.drops, self.bytes_of, self.status = folder, [], {}, 200
        self.commit, self.asked, self.sent = COMMIT, [], 0
        # Of a repository: {"private": bool, "files": {name: bytes}}.
        self.pushed, self.large = {}, {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def do_POST(self):
        self._write()

    def do_PUT(self):
        self._write()

    def log_message(self, *_):
        pass

    def _write(self) -> None:
        server, path = self.server, urllib.parse.unquote(self.path)
        server.asked.append((self.command, path, None))
        size = int(self.headers["Content-Length"])
        if server.breaks and server.breaks in path:
            self.rfile.read(size // 2)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        content = self.rfile.read(size)
        if path.startswith("/large/"):
            server.large[path.removeprefix("/large/")] = content
            self._send(b"", 200, {}, True)
        elif server.status != 200 or self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = server.status if server.status != 200 else 401
            self._send(b"{}", status, {"X-Error-Message": "no"}, True)
        else:
            self._send(json.dumps(self._changed(path, content)).encode(), 200, {}, True)

    def _changed(self, path: str, content: bytes) -> dict:
        """The answer to a request that writes."""
        server = self.server
        if path.endswith("/commit/main"):
            lines = [json.loads(line) for line in content.splitlines()]
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            self._commit(server.pushed[name]["files"], lines)
            return {"commitUrl": f"{server.address}/{name}/commit/1", "commitOid": COMMIT}
        asked = json.loads(content)
        if path == "/api/repos/create":
            name = f"{asked['organization']}/{asked['name']}"
            repository = {"private": asked["visibility"] == "private", "files": {}}
            server.pushed.setdefault(name, repository)
            return {"url": f"{server.address}/{name}"}
        if path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}
        if path.endswith("/preupload/main"):
            mode = {True: "lfs", False: "regular"}
            is_large = {file["path"]: file["path"].endswith("s") for file in asked["files"]}
            files = [
                {"path": file, "uploadMode": mode[large], "shouldIgnore": False}
                for file, large in is_large.items()
            ]
            return {"files": files}
        assert path.endswith(".git/info/lfs/objects/batch")
        objects = [
            {
                **entry,
                "actions": {"upload": {"href": f"{server.address}/large/{entry['oid']}"}},
            }
            for entry in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, files: dict[str, bytes], lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.server.large[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                files[value["path"]] = content
            elif line["key"] == "deletedFile":
                del files[value["path"]]

    def _answer(self, body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        server = self.server
        server.asked.append((self.command, path, self.headers.get("Range")))
        if server.status != 200:
            self._send(b"{}", server.status, {}, body)
        elif path == "/api/whoami-v2":
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self._send(json.dumps({"name": "me"}).encode(), 200 if known else 401, {}, body)
        elif path.removeprefix("/api/models/") in server.pushed:
            found = server.pushed[path.removeprefix("/api/models/")]
            files = [{"rfilename": file} for file in found["files"]]
            about = {"_id": "1", "id": "me/x", "private": found["private"], "siblings": files}
            self._send(json.dumps(about).encode(), 200, {}, body)
        elif path.startswith("/api/models/"):
            self._info(path.removeprefix("/api/models/"), body)
        else:
            name, _, rest = path[1:].partition("/resolve/")
            revision, _, file = rest.partition("/")
            target = server.folder / file
            if name != NAME or revision != server.commit or not target.is_file():
                self._missing("EntryNotFound", body)
            else:
                self._file(target, body)

    def _info(self, rest: str, body: bool) -> None:
        name, _, revision = rest.partition("/revision/")
        if name != NAME:
            self._missing("RepoNotFound", body)
        elif revision not in ("", "main", self.server.commit):
            self._missing("RevisionNotFound", body)
        else:
            files = [
                {"rfilename": path.name, "size": path.stat().st_size}
                for path in sorted(self.server.folder.iterdir())
            ]
            about = {"_id": "1", "id": NAME, "sha": self.server.commit, "siblings": files}
            self._send(json.dumps(about).encode(), 200, {}, body)

    def _file(self, path: pathlib.Path, body: bool) -> None:
        content = path.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        if path.suffix == ".json":
            tag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        content = self.server.bytes_of.get(path.name, content)
        headers = {
            "X-Repo-Commit": self.server.commit,
            "ETag": f'"{tag}"',
            "Accept-Ranges": "bytes",
        }
        status, wanted = 200, self.headers.get("Range")
        if wanted and body:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[start:]
        self._send(content, status, headers, body, is_file=True)

    def _missing(self, code: str, body: bool) -> None:
        self._send(b"{}", 404, {"X-Error-Code": code, "X-Error-Message": "none"}, body)

    def _send(self, content, status, headers, body, is_file=False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        if is_file and self.server.drops:
            content = content[: self.server.drops.pop(0)]
            self.close_connection = True
        self.wfile.write(content)
        self.server.sent += len(content)


@pytest.fixture
def serve(models, tmp_path, monkeypatch):
    """A function that serves a copy of a model; $HF_ENDPOINT and the cache are set."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(hub, "PAUSES", (0, 0, 0))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    servers = []

    def start(kind: str) -> Hub:
        server = Hub(shutil.copytree(models[kind], tmp_path / kind))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def same_files(folder: pathlib.Path, server: Hub, count: int) -> None:
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(found) == count
    assert found == {name: (server.folder / name).read_bytes() for name in found}


@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_fetches_what_is_needed_and_only_once(serve, kind):
    server = serve(kind)
    (server.folder / "pytorch_model.bin").write_bytes(b"pickle")
    (server.folder / "tf_model.h5").write_bytes(b"h5")
    snapshot = hub.fetch(NAME)
    assert snapshot.address == f"hf://{NAME}@{COMMIT}"
    weights = 1 if kind == "whole" else 1 + len(list(server.folder.glob("model-*")))
    assert (kind == "sharded") == (weights > 3)
    same_files(snapshot.folder, server, 2 + weights)
    source = conversion.open_any(snapshot.folder)
    assert source.config == CONFIG
    assert source.vocabulary == snapshot.folder / "spiece.model"
    assert hub.cached(snapshot.address) == snapshot.folder
    del server.asked[:]
    assert hub.fetch(NAME, COMMIT) == snapshot
    assert server.asked == []
    assert hub.fetch(NAME) == snapshot
    assert [path for _, path, _ in server.asked] == [f"/api/models/{NAME}"]


def test_a_dropped_file_is_resumed_where_it_broke_off(serve):
    server = serve("whole")
    # The first answer is config.json's, the second spiece.model's.
    server.drops = [10**9, 10**9, 3000, 5000]
    snapshot = hub.fetch(NAME)
    ranges = [wanted for command, path, wanted in server.asked if wanted]
    assert ranges == ["bytes=3000-", "bytes=8000-"]
    same_files(snapshot.folder, server, 3)


def test_a_server_that_keeps_dropping_is_reported_and_the_next_call_goes_on(serve):
    server = serve("whole")
    server.drops = [10**9, 10**9] + [0] * 100
    with pytest.raises(UserError, match=r"File model.safetensors of .* expected all of it; check"):
        hub.fetch(NAME)
    server.drops, server.asked = [], []
    same_files(hub.fetch(NAME).folder, server, 3)
    assert "spiece.model" not in " ".join(path for _, path, _ in server.asked)


@pytest.mark.parametrize("length", [0, 5000])
def test_a_truncated_file_is_never_used(serve, length):
    server = serve("whole")
    content = (server.folder / "model.safetensors").read_bytes()
    server.bytes_of["model.safetensors"] = content[:length]
    with pytest.raises(UserError, match=r"model.safetensors.* got other bytes than its checksum"):
        hub.fetch(NAME)
    with pytest.raises(UserError, match="got no full copy"):
        hub.cached(f"hf://{NAME}@{COMMIT}")
    del server.bytes_of["model.safetensors"]
    same_files(hub.fetch(NAME).folder, server, 3)


def test_a_damaged_copy_in_the_cache_is_refused_and_fetched_again(serve):
    server = serve("whole")
    snapshot = hub.fetch(NAME)
    for file in ("model.safetensors", "config.json"):
        blob = (snapshot.folder / file).resolve()
        blob.write_bytes(blob.read_bytes()[:-1])
        with pytest.raises(UserError, match=rf"Damaged file '.*{file}'.*--from {NAME}@{COMMIT}"):
            hub.cached(snapshot.address)
        assert hub.fetch(NAME, COMMIT) == snapshot
        same_files(snapshot.folder, server, 3)


def test_without_a_network_the_copy_is_used_or_the_message_says_what_to_do(serve, capsys):
    server = serve("whole")
    server.status = 503
    with pytest.raises(UserError, match=r"no full copy of it in .*hf download .*--from FOLDER"):
        hub.fetch(NAME)
    server.status = 200
    snapshot = hub.fetch(NAME)
    server.status = 503
    assert hub.fetch(NAME) == snapshot
    assert "using the copy" in capsys.readouterr().err
    server.shutdown()
    server.server_close()
    assert hub.fetch(NAME) == snapshot


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


REFUSED = {
    "pickle": (pickled, r"pytorch_model.bin, expected model.safetensors: .*save_pretrained"),
    "no vocabulary": (lambda f: (f / "spiece.model").unlink(), "put the spiece.model of the model"),
    "no config": (lambda f: (f / "config.json").unlink(), "got no config.json, expected a model"),
    "mt5": (lambda f: change(f, model_type="mt5"), "got an mT5, whose vocabulary .*flan-t5-base"),
    "umt5": (lambda f: change(f, model_type="umt5"), "a umt5, whose every layer"),
    "bert": (lambda f: change(f, model_type="bert"), "model_type 'bert', expected a T5"),
    "encoder": (
        lambda f: change(f, architectures=["T5EncoderModel"]),
        "got an encoder without a decoder .* save the whole model",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_its_weights_are_fetched(serve, name):
    server = serve("whole")
    spoil, message = REFUSED[name]
    spoil(server.folder)
    with pytest.raises(UserError, match=message):
        hub.fetch(NAME)
    assert "safetensors" not in " ".join(path for _, path, _ in server.asked)


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("google/flan", None, "got no such model, .*hf auth login"),
        (NAME, "v9", "got no revision 'v9'.*--from NAME@REVISION"),
    ],
)
def test_wrong_names_are_reported(serve, name, revision, message):
    serve("whole")
    with pytest.raises(UserError, match=message):
        hub.fetch(name, revision)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("google/flan-t5-base", ("google/flan-t5-base", None)),
        ("t5-small@refs/pr/3", ("t5-small", "refs/pr/3")),
        (f"hf://a/b@{COMMIT}", ("a/b", COMMIT)),
        ("./folder", None),
        ("a/b/c", None),
        ("gs://t5-data/x", None),
        ("", None),
    ],
)
def test_names_of_the_hub(text, parsed):
    assert hub.parse(text) == parsed


@pytest.fixture
def shop(tmp_path):
    """A data folder with the prepared dataset `shop`: 20 users, 10 items."""
    lines = [f"u{user},sku{(user + n) % 10},{86_400 * n}" for user in range(20) for n in range(6)]
    (tmp_path / "shop.csv").write_text("\n".join(["user,item,time", *lines, ""]))
    data = str(tmp_path / "data")
    files = ["--interactions", str(tmp_path / "shop.csv")]
    assert cli.main(["prepare", "shop", *files, "--data_dir", data]) == 0
    yield data
    seqio.set_tfds_data_dir_override(None)


SHORT = [
    "--gin.TRAIN_STEPS=1",
    "--gin.EVAL_PERIOD=1",
    "--gin.BATCH_SIZE=2",
    "--gin.training.train.eval_examples=2",
    '--gin.TASK_FEATURE_LENGTHS={"inputs": 512, "targets": 64}',
]


@pytest.mark.slow
@pytest.mark.usefixtures("clean_gin")
def test_one_command_fetches_trains_and_resumes_the_same_commit(serve, shop, tmp_path, capsys):
    server, run = serve("sharded"), str(tmp_path / "run")
    command = ["train", "shop", "--data_dir", shop, "--out", run, *SHORT]
    assert cli.main([*command, "--from", NAME]) == 0
    printed = capsys.readouterr().err
    address = f"hf://{NAME}@{COMMIT}"
    assert f"{address} is in {tmp_path / 'cache'}" in printed
    assert f"PUBLISHED_CHECKPOINT = {address!r}" in printed
    recorded = json.loads(pathlib.Path(run, "run.json").read_text())
    assert recorded["initial_checkpoint"] == address
    assert recorded["model"] == "flan-t5-tiny"
    sizes = ("vocab_size", "emb_dim", "num_decoder_layers", "mlp_dim", "logits_via_embedding")
    assert {name: recorded["network"][name] for name in sizes} == {
        name: getattr(CONFIG, name) for name in sizes
    }
    copied = pathlib.Path(run, "vocabulary.model").read_bytes()
    assert copied == (server.folder / "spiece.model").read_bytes()
    made = ["convert", "--from", "recllm", "--to", "hf", run, str(tmp_path / "made")]
    assert cli.main([*made, "--data_dir", shop]) == 0
    card = (tmp_path / "made" / "README.md").read_text()
    assert f"base_model: {NAME}\ntags:\n- recommendation\n" in card
    assert f"`{address}`, whose license holds" in card
    # The branch moves on; the run stays with its commit, and asks nobody for it.
    server.commit = "2" * 40
    del server.asked[:]
    gin.clear_config()
    assert cli.main([*command, "--gin.TRAIN_STEPS=2", "--from", NAME]) == 0
    assert "resumed at step 1" in capsys.readouterr().err
    assert server.asked == []
    gin.clear_config()
    assert cli.main([*command, "--from", f"{NAME}@{server.commit}"]) == 2
    error = capsys.readouterr().err
    assert f"got initial_checkpoint 'hf://{NAME}@{server.commit}', expected '{address}'" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "no/such/folder"], "which is no folder here, expected one, or a model of"),
        (["--from", "google/flan"], "got no such model"),
        (
            ["--from", NAME, "--gin_file=models/tiny.gin"],
            "and --gin_file=models/tiny.gin, expected",
        ),
        (["--from", NAME, "--gin.INITIAL_CHECKPOINT=x"], "and --gin.INITIAL_CHECKPOINT, expected"),
        (["--gin_file=models/flan_t5_base.gin"], "--from google/flan-t5-base"),
    ],
)
@pytest.mark.usefixtures("clean_gin")
def test_wrong_uses_are_refused_and_nothing_is_written(
    serve, shop, tmp_path, capsys, arguments, message
):
    serve("whole")
    run = str(tmp_path / "run")
    assert cli.main(["train", "shop", "--data_dir", shop, "--out", run, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not pathlib.Path(run).exists()


def test_nothing_is_fetched_without_the_option(serve, shop, tmp_path, capsys):
    server = serve("whole")
    gin.clear_config()
    asked = ["--gin.INITIAL_CHECKPOINT=hf://google/flan-t5-tiny@" + COMMIT]
    files = ["--gin_file=models/tiny.gin"]
    run = str(tmp_path / "run")
    assert cli.main(["train", "shop", "--data_dir", shop, "--out", run, *files, *asked]) == 2
    assert f"fetch it with `recllm train DATASET --from {NAME}@{COMMIT}" in capsys.readouterr().err
    assert server.asked == []
    gin.clear_config()


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'recllm_tasks\[hub\]'"):
        hub.fetch(NAME)


@pytest.fixture
def push(serve, models, tmp_path, monkeypatch):
    """(a server to push to, a function that runs `recllm convert … --push`, what it writes)."""
    server = serve("whole")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    made = tmp_path / "made"

    def run(name: str, *options: str) -> int:
        command = ["convert", "--from", "hf", "--to", "hf", str(models["whole"]), str(made)]
        return cli.main([*command, "--push", name, "--overwrite", *options])

    return server, run, made


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("has_xet", [True, False])
def test_push_uploads_the_folder_byte_for_byte_in_one_commit(
    push, models, monkeypatch, capsys, has_xet
):
    server, run, made = push
    monkeypatch.setattr(huggingface_hub._commit_api, "is_xet_available", lambda: has_xet)
    monkeypatch.setattr(huggingface_hub.hf_api, "is_xet_available", lambda: has_xet)
    with monkeypatch.context() as patch:
        patch.setattr(hugging_face_folder, "SHARD_BYTES", 2**15)
        assert run("recommender") == 0
    assert server.pushed == {"me/recommender": {"private": True, "files": contents(made)}}
    assert f"{server.address}/me/recommender/commit/1 (private)" in capsys.readouterr().err
    files = server.pushed["me/recommender"]["files"]
    card = files["README.md"].decode()
    assert card.startswith(
        "---\nlibrary_name: transformers\npipeline_tag: text2text-generation\ntags:\n- t5\n---\n"
    )
    assert 'from_pretrained("me/recommender")' in card
    # SentencePiece wrote the folder into the vocabulary of this test.
    written = b"".join(content for name, content in files.items() if name != "spiece.model")
    assert str(models["whole"]).encode() not in written
    # Shards of before would be read in place of the one file of now.
    assert sum(name.startswith("model-") for name in files) > 1
    files["notes.txt"] = b"of the owner"
    assert run("me/recommender") == 0
    assert files == {**contents(made), "notes.txt": b"of the owner"}
    commits = [path for _, path, _ in server.asked if path.endswith("/commit/main")]
    assert len(commits) == 2


def test_what_does_not_verify_is_not_pushed(push, monkeypatch):
    server, run, _ = push
    monkeypatch.setattr(convert, "_prompts", lambda *_: ())
    monkeypatch.setattr(convert, "_verify", lambda *_: 1)
    assert run("me/x", "--verify") == 1
    assert server.pushed == {}


def test_push_publishes_only_where_asked(push, capsys):
    server, run, made = push
    assert run("me/shown", "--public") == 0
    files = dict(server.pushed["me/shown"]["files"])
    assert server.pushed["me/shown"]["private"] is False
    assert run("me/shown") == 2
    error = capsys.readouterr().err
    assert "got no --public and a public repository, expected the two to agree" in error
    assert server.pushed["me/shown"]["files"] == files
    assert made.is_dir()


@pytest.mark.parametrize("part", ["/large/", "/commit/", "/preupload/", "/repos/create"])
def test_a_push_that_breaks_off_commits_nothing(push, capsys, part):
    server, run, made = push
    server.breaks = part
    assert run("me/recommender") == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert "expected to commit all files (never a part of them); check the network" in line
    assert f"`hf upload me/recommender {made} --private`" in line
    assert all(not repository["files"] for repository in server.pushed.values())
    server.breaks = ""
    assert run("me/recommender") == 0
    assert server.pushed["me/recommender"]["files"] == contents(made)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a/b/c", [], "--push: got 'a/b/c', expected NAME or OWNER/NAME"),
        ("me/--x", [], "--push: got 'me/--x', expected NAME or OWNER/NAME"),
        ("me/x", ["--to", "t5x"], "--push: got --to t5x, expected --to hf"),
    ],
)
def test_wrong_uses_of_push_end_before_anything_is_converted(push, capsys, name, options, message):
    server, run, made = push
    assert run(name, *options) == 2
    assert message in capsys.readouterr().err
    assert not made.exists()
    assert server.asked == []


def test_push_says_how_to_get_a_token_that_may_write(push, monkeypatch, tmp_path, capsys):
    server, run, made = push
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert run("me/x") == 2
    assert "log in with `hf auth login`, or correct $HF_TOKEN" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    assert run("me/x") == 2
    assert "got no token, expected one that may write; log in with" in capsys.readouterr().err
    assert not made.exists()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.status = 403
    with pytest.raises(UserError, match="give a token that may write to 'others', or a name of"):
        hub.push(tmp_path, "others/x", is_public=False)
