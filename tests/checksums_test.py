"""Checksums: what changed is named, and the checksums themselves are verified."""

import json

import pytest

from recllm_tasks import checksums, files
from recllm_tasks.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b").write_bytes(b"second")
    checksums.write(tmp_path)
    return tmp_path


def _changed(folder, names=None):
    return [path.relative_to(folder).as_posix() for path, *_ in checksums.damage(folder, names)]


def test_every_file_beneath_is_covered(folder):
    assert set(checksums.read(folder)) == {"a", "below/b"}
    checksums.check(folder, "")
    (folder / "below" / "b").write_bytes(b"secoNd")
    (folder / "a").unlink()
    assert _changed(folder) == ["a", "below/b"]
    assert _changed(folder, ["below/b", "unknown"]) == ["below/b"]
    with pytest.raises(UserError, match=r"Damaged file '.*/a': got no such file, .*; get a copy"):
        checksums.check(folder, "get a copy")


def test_a_folder_without_checksums_has_no_damage(tmp_path):
    assert checksums.read(tmp_path) is None
    checksums.check(tmp_path, "")
    checksums.expect(tmp_path, "a", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_added_before_it_is_written(folder):
    checksums.expect(folder, "c", b"third")
    assert _changed(folder) == ["c"]
    (folder / "c").write_bytes(b"third")
    assert _changed(folder) == []


def test_a_change_of_any_byte_of_the_checksums_is_noticed(folder):
    path = folder / "checksums.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 + place % 255
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"Damaged file '.*checksums\.json'"):
            checksums.read(folder)
    for content in ("{}", "[]", json.dumps({"files": {}})):
        path.write_text(content)
        with pytest.raises(UserError, match=r"Damaged file '.*checksums\.json'"):
            checksums.read(folder)
    for entries in ({"a": 1}, {"../x": {"bytes": 1, "sha256": ""}}, {"a": {"bytes": 1}}):
        files.write_json(path, {"files": entries})
        with pytest.raises(UserError, match=r"Damaged file '.*checksums\.json'"):
            checksums.read(folder)


@pytest.mark.parametrize("kind", ["json", "settings"])
def test_a_change_of_any_byte_of_a_file_with_its_own_checksum_is_noticed(kind, tmp_path):
    path = tmp_path / "file"
    if kind == "json":
        files.write_json(path, {"a": 1, "b": {"c": [1, 2]}})
    else:
        files.write_settings(path, "# a comment\nA = 1")
    whole = path.read_bytes()
    assert files.is_intact(whole)
    for place in range(len(whole)):
        for change in (0x01, 0x07, 0x20, 0x80, 0xFF):
            content = bytearray(whole)
            content[place] ^= change
            assert files.is_intact(bytes(content)) is False, (place, change)


def test_files_without_a_checksum_are_read(tmp_path):
    assert files.is_intact(b"{}") is None
    assert files.parse_json(b'{"a": 1}') == {"a": 1}
    files.write_json(tmp_path / "f", {"a": 1})
    assert files.read_json(tmp_path / "f") == {"a": 1}
