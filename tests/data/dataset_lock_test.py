import os
import subprocess
import sys
import threading

import pytest

from recllm_tasks.data import dataset_lock
from recllm_tasks.data.dataset_lock import lock_dataset, replace_folder


def silent(text):
    raise AssertionError(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def die_inside(data_dir, name, code="pass"):
    """A process that is killed in its scratch folder after `code`."""
    program = (
        "import os, pathlib, sys\n"
        "from recllm_tasks.data import dataset_lock as lib\n"
        "data_dir = pathlib.Path(sys.argv[1])\n"
        "with lib.lock_dataset(data_dir, sys.argv[2], print) as scratch:\n"
        f"    {code}\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(data_dir), name], check=False)
    assert result.returncode == -9


def test_the_scratch_folder_is_empty_and_removed(tmp_path):
    with lock_dataset(tmp_path, "toys", silent) as folder:
        assert list(folder.iterdir()) == []
        (folder / "file").write_text("")
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError), lock_dataset(tmp_path, "toys", silent) as folder:
        (folder / "absent" / "file").write_text("")
    assert names(tmp_path) == []


def test_two_datasets_at_once(tmp_path):
    # The names are made to be confused.
    with (
        lock_dataset(tmp_path, "a", silent) as first,
        lock_dataset(tmp_path, "a.b", silent) as second,
    ):
        (second / "file").write_text("")
        with lock_dataset(tmp_path, "c", silent):
            pass
        assert (first.is_dir(), names(second)) == (True, ["file"])
    assert names(tmp_path) == []


def test_one_dataset_at_a_time(tmp_path):
    inside, overlaps = [], []

    def run(number):
        for _ in range(20):
            with lock_dataset(tmp_path, "toys", lambda text: None) as folder:
                inside.append(number)
                (folder / "file").write_text("")
                overlaps.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [1] * 80
    assert names(tmp_path) == []


@pytest.mark.parametrize("next_name", ["toys", "beauty"])
def test_leftovers_of_a_killed_run_are_removed(tmp_path, next_name):
    die_inside(tmp_path, "toys", "(scratch / 'file').write_text('x')")
    assert len(names(tmp_path)) == 2
    with lock_dataset(tmp_path, next_name, silent) as folder:
        assert len(names(tmp_path)) == 2
        assert list(folder.iterdir()) == []
    assert names(tmp_path) == []


def test_replace(tmp_path):
    target = tmp_path / "rec_sequences" / "toys"
    for text in ("old", "new"):
        with lock_dataset(tmp_path, "toys", silent) as folder:
            (folder / "made").mkdir()
            (folder / "made" / "file").write_text(text)
            replace_folder(folder, folder / "made", target)
        assert (target / "file").read_text() == text
    assert names(tmp_path) == ["rec_sequences"]


def test_a_failed_replacement_keeps_the_old(tmp_path):
    target = tmp_path / "rec_sequences" / "toys"
    target.mkdir(parents=True)
    (target / "file").write_text("old")
    with pytest.raises(FileNotFoundError), lock_dataset(tmp_path, "toys", silent) as folder:
        replace_folder(folder, folder / "absent", target)
    assert (target / "file").read_text() == "old"


@pytest.mark.parametrize("next_name", ["toys", "beauty"])
def test_killed_between_the_moves_keeps_the_old(tmp_path, next_name):
    target = tmp_path / "rec_sequences" / "toys"
    target.mkdir(parents=True)
    (target / "file").write_text("old")
    die_inside(
        tmp_path,
        "toys",
        "rename = os.rename; os.rename = lambda a, b: (rename(a, b), os.kill(os.getpid(), 9)); "
        "lib.replace_folder(scratch, scratch, data_dir / 'rec_sequences' / 'toys')",
    )
    assert not target.exists()
    with lock_dataset(tmp_path, next_name, silent):
        assert (target / "file").read_text() == "old"
    assert names(tmp_path) == ["rec_sequences"]


def test_a_lock_on_a_removed_file_is_not_kept(tmp_path, monkeypatch):
    """The previous owner removes the file just before the lock is acquired: it is created again."""
    path = tmp_path / "recllm_scratch.toys.lock"
    flock, calls = dataset_lock.fcntl.flock, []

    def remove_once(lock, operation):
        calls.append(lock)
        if len(calls) == 1:
            path.unlink()
        flock(lock, operation)

    monkeypatch.setattr(dataset_lock.fcntl, "flock", remove_once)
    with lock_dataset(tmp_path, "toys", silent):
        assert path.exists()
        assert len(calls) == 2
    assert os.listdir(tmp_path) == []
