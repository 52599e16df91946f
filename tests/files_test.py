"""Files are complete or missing, and damaged ones are reported."""

import pytest

from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write, read_json


@pytest.mark.parametrize("name", ["", "folder", "folder/", "missing/file", "file/below"])
def test_an_unwritable_path_is_reported_before_any_work(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    path = str(tmp_path / name) if name and not name.endswith("/") else name
    with pytest.raises(UserError, match="Cannot write"), atomic_write(path):
        pytest.fail("the block must not run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_file_is_not_replaced_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def stop_half_way():
        with atomic_write(path) as f:
            f.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_json_file_is_reported(tmp_path):
    assert read_json(tmp_path / "best.json") is None
    (tmp_path / "best.json").write_text("{")
    with pytest.raises(UserError, match=r"Damaged file '.*best\.json'"):
        read_json(tmp_path / "best.json")
