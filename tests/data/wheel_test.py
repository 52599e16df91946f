import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from recllm_tasks.data import wheel
from recllm_tasks.data.prepare import prepare
from recllm_tasks.data.specs import SPECS
from recllm_tasks.errors import UserError

MOVIES = SPECS["movielens_100k"]
FOLDER = "recbole/dataset_example/ml-100k/"


@pytest.fixture
def pip(monkeypatch):
    """A pip that puts a small wheel where it is told; counts its calls."""
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        path = Path(command[command.index("--dest") + 1]) / "recbole-1.2.1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("ml-100k.inter", "ml-100k.item", "ml-100k.user"):
                archive.writestr(zipfile.ZipInfo(FOLDER + name), name)
        monkeypatch.setattr(wheel, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_takes_two_files_and_fetches_once(tmp_path, pip):
    folder = wheel.fetch_from_wheel(MOVIES, tmp_path)
    assert folder == tmp_path / "downloads" / "movielens_100k"
    assert sorted(p.name for p in folder.iterdir()) == ["ml-100k.inter", "ml-100k.item"]
    assert (folder / "ml-100k.inter").read_text() == "ml-100k.inter"
    assert pip[0][-1] == "recbole==1.2.1"
    assert "--no-deps" in pip[0]
    wheel.fetch_from_wheel(MOVIES, tmp_path)
    assert len(pip) == 1


def test_fetches_again_when_one_file_is_missing(tmp_path, pip):
    folder = wheel.fetch_from_wheel(MOVIES, tmp_path)
    (folder / "ml-100k.inter").unlink()
    wheel.fetch_from_wheel(MOVIES, tmp_path)
    assert len(pip) == 2
    assert (folder / "ml-100k.inter").is_file()


def test_wrong_checksum_leaves_nothing(tmp_path, monkeypatch, pip):
    good = subprocess.run

    def run(command, **kwargs):
        result = good(command, **kwargs)
        monkeypatch.setattr(wheel, "WHEEL_SHA256", "0" * 64)
        return result

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match=r"checksum for 'recbole-1.2.1.*expected 0000.*--raw_dir"):
        wheel.fetch_from_wheel(MOVIES, tmp_path)
    assert not list((tmp_path / "downloads" / "movielens_100k").iterdir())


def test_no_network(tmp_path, monkeypatch):
    def run(command, **kwargs):
        return subprocess.CompletedProcess(
            command, 1, "", "retrying\nERROR: No matching distribution"
        )

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match=r"'ERROR: No matching distribution'.*network.*--raw_dir"):
        wheel.fetch_from_wheel(MOVIES, tmp_path)


@pytest.mark.slow
def test_published_wheel(tmp_path):
    """Needs PyPI."""
    statistics = prepare("movielens_100k", tmp_path)
    assert (statistics.users, statistics.items) == (943, 1_349)
    assert (statistics.interactions, statistics.train_windows) == (99_287, 78_716)
