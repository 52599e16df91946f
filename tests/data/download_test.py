"""Downloads from a local server that drops connections, changes files, and lies."""

import dataclasses
import hashlib
import http.server
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from recllm_tasks.data import download as download_lib
from recllm_tasks.data.download import download, download_published
from recllm_tasks.data.prepare import prepare
from recllm_tasks.data.specs import SPECS
from recllm_tasks.errors import UserError

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; drops the connection after `drop_after` bytes of each answer."""

    content, etag, drop_after, ranges, status, hidden = CONTENT, '"1"', None, True, 200, False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/x.json.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        else:
            self.send_response(200)
        if not server.hidden:
            self.send_header("Content-Length", str(len(server.content) - start))
        self.send_header("ETag", server.etag)
        self.end_headers()
        body = server.content[start:]
        self.wfile.write(body if server.drop_after is None else body[: server.drop_after])
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(server, target, sha256=None):
    download(server.address, target, sha256, sleep=lambda seconds: None)


def test_complete_download(tmp_path, server):
    fetch(server, tmp_path / "x.json.gz", SHA256)
    assert (tmp_path / "x.json.gz").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["x.json.gz"]
    fetch(server, tmp_path / "x.json.gz")
    assert server.asked == [None]


def test_resumes_where_the_connection_dropped(tmp_path, server):
    server.drop_after = 300_000
    fetch(server, tmp_path / "x.json.gz", SHA256)
    assert (tmp_path / "x.json.gz").read_bytes() == CONTENT
    starts = range(300_000, len(CONTENT), 300_000)
    assert server.asked == [None, *(f"bytes={start}-" for start in starts)]


def test_a_stopped_run_resumes(tmp_path, server, monkeypatch):
    def stop(answer, file, progress):
        file.write(answer.read(100_000))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(download_lib, "_copy", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path / "x.json.gz")
    assert not (tmp_path / "x.json.gz").exists()
    fetch(server, tmp_path / "x.json.gz", SHA256)
    assert server.asked[-1] == "bytes=100000-"
    assert (tmp_path / "x.json.gz").read_bytes() == CONTENT


def test_restarts_if_the_file_changed_or_the_server_has_no_ranges(tmp_path, server):
    for name in ("changed", "no ranges"):
        (tmp_path / f"{name}.part").write_bytes(b"old" * 1000)
        (tmp_path / f"{name}.part.tag").write_text('"0"' if name == "changed" else '"1"')
        server.ranges = name == "changed"
        fetch(server, tmp_path / name, SHA256)
        assert (tmp_path / name).read_bytes() == CONTENT


def test_a_part_of_unknown_origin_is_not_trusted(tmp_path, server):
    (tmp_path / "x.json.gz.part").write_bytes(b"old" * 1000)
    fetch(server, tmp_path / "x.json.gz")
    assert server.asked == [None]
    assert (tmp_path / "x.json.gz").read_bytes() == CONTENT


def test_wrong_checksum_leaves_nothing(tmp_path, server):
    with pytest.raises(UserError, match=r"SHA-256 .* instead of 0000.*--raw_dir"):
        fetch(server, tmp_path / "x.json.gz", "0" * 64)
    assert not (tmp_path / "x.json.gz").exists()
    assert not (tmp_path / "x.json.gz.part").exists()


def test_a_server_that_always_drops_at_once(tmp_path, server):
    server.drop_after = 0
    with pytest.raises(UserError, match=r"0 of 1,024,000 bytes, 5 times in a row.*which resumes"):
        fetch(server, tmp_path / "x.json.gz")
    assert len(server.asked) == 5
    assert not (tmp_path / "x.json.gz").exists()


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (503, 5)])
def test_a_refusal(tmp_path, server, status, times):
    server.status = status
    with pytest.raises(UserError, match=rf"127\.0\.0\.1.*{status}"):
        fetch(server, tmp_path / "x.json.gz")
    assert len(server.asked) == times


def test_no_server(tmp_path, server):
    address = server.address
    server.server_close()
    with pytest.raises(UserError, match="Connection refused"):
        download(address, tmp_path / "x", sleep=lambda seconds: None)


def test_unknown_size(tmp_path, server):
    server.hidden = True
    fetch(server, tmp_path / "x.json.gz", SHA256)
    assert (tmp_path / "x.json.gz").read_bytes() == CONTENT


def test_both_files_of_a_dataset(tmp_path, server):
    spec = dataclasses.replace(
        SPECS["toys"], interactions_address=server.address, metadata_address=server.address
    )
    folder = download_published(spec, tmp_path / "raw")
    assert sorted(path.name for path in folder.iterdir()) == [
        "meta_Toys_and_Games.json.gz",
        "reviews_Toys_and_Games_5.json.gz",
    ]
    with pytest.raises(UserError, match="leave out --download"):
        download_published(SPECS["movielens_100k"], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="give another --raw_dir"):
        download_published(spec, tmp_path / "file" / "below")


MOVIES = SPECS["movielens_100k"]
WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"


@pytest.fixture
def pip(monkeypatch):
    """A pip that writes a small wheel; returns the list of its calls."""
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        path = Path(command[command.index("--dest") + 1]) / "recbole-1.2.1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("ml-100k.inter", "ml-100k.item", "ml-100k.user"):
                archive.writestr(zipfile.ZipInfo(WHEEL_FOLDER + name), name)
        monkeypatch.setattr(
            download_lib, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest()
        )
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_takes_two_files_from_the_wheel_and_downloads_once(tmp_path, pip):
    folder = download_lib.fetch_from_wheel(MOVIES, tmp_path)
    assert folder == tmp_path / "downloads" / "movielens_100k"
    assert sorted(p.name for p in folder.iterdir()) == ["ml-100k.inter", "ml-100k.item"]
    assert (folder / "ml-100k.inter").read_text() == "ml-100k.inter"
    assert pip[0][-1] == "recbole==1.2.1"
    assert "--no-deps" in pip[0]
    download_lib.fetch_from_wheel(MOVIES, tmp_path)
    assert len(pip) == 1


def test_downloads_the_wheel_again_if_a_file_is_missing(tmp_path, pip):
    folder = download_lib.fetch_from_wheel(MOVIES, tmp_path)
    (folder / "ml-100k.inter").unlink()
    download_lib.fetch_from_wheel(MOVIES, tmp_path)
    assert len(pip) == 2
    assert (folder / "ml-100k.inter").is_file()


def test_a_wheel_with_a_wrong_checksum_leaves_nothing(tmp_path, monkeypatch, pip):
    good = subprocess.run

    def run(command, **kwargs):
        result = good(command, **kwargs)
        monkeypatch.setattr(download_lib, "WHEEL_SHA256", "0" * 64)
        return result

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match=r"checksum for 'recbole-1.2.1.*expected 0000.*--raw_dir"):
        download_lib.fetch_from_wheel(MOVIES, tmp_path)
    assert not list((tmp_path / "downloads" / "movielens_100k").iterdir())


def test_no_network_for_pip(tmp_path, monkeypatch):
    def run(command, **kwargs):
        return subprocess.CompletedProcess(
            command, 1, "", "retrying\nERROR: No matching distribution"
        )

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match=r"'ERROR: No matching distribution'.*network.*--raw_dir"):
        download_lib.fetch_from_wheel(MOVIES, tmp_path)


@pytest.mark.slow
def test_published_wheel(tmp_path):
    """Needs PyPI."""
    statistics = prepare("movielens_100k", tmp_path)
    assert (statistics.users, statistics.items) == (943, 1_349)
    assert (statistics.interactions, statistics.train_windows) == (99_287, 78_716)
