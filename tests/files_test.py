"""Files are complete or missing, and damaged ones are reported."""

import dataclasses

import pytest

from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write, from_object, read_json


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


@dataclasses.dataclass
class _Facts:
    name: str
    size: int = 1

    def __post_init__(self):
        self.doubled = self.size * 2 + len(self.name)


def test_an_object_of_a_file_is_an_instance_of_a_class():
    assert from_object(_Facts, {"name": "a"}) == _Facts("a")
    for content, message in (
        ({"size": 2}, "no 'name'"),
        ({"name": "a", "old": 2}, "an unknown 'old'"),
        (["name"], "a list"),
        (None, "a NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            from_object(_Facts, content)


def test_our_own_error_in_a_class_is_not_a_damaged_file():
    with pytest.raises(TypeError):
        from_object(_Facts, {"name": 5})
