import gzip
import hashlib

import pytest

from recllm_tasks.data import sources
from recllm_tasks.data.specs import SPECS
from recllm_tasks.errors import UserError

TOYS = SPECS["toys"]


def test_finds_packed_before_unpacked(tmp_path):
    for name in ("reviews_Toys_and_Games_5.json", "meta_Toys_and_Games.json"):
        (tmp_path / name).write_text("{}\n")
    assert [p.name for (p,) in sources.find_sources(TOYS, tmp_path)] == [
        "reviews_Toys_and_Games_5.json",
        "meta_Toys_and_Games.json",
    ]
    (tmp_path / "meta_Toys_and_Games.json.gz").write_bytes(gzip.compress(b"{}\n"))
    assert sources.find_sources(TOYS, tmp_path)[1][0].name == "meta_Toys_and_Games.json.gz"


def test_missing_file_is_named_with_its_address(tmp_path):
    (tmp_path / TOYS.interactions_file).write_bytes(b"")
    with pytest.raises(UserError) as error:
        sources.find_sources(TOYS, tmp_path)
    assert TOYS.metadata_file in str(error.value)
    assert TOYS.metadata_address in str(error.value)
    assert TOYS.interactions_file not in str(error.value)


@pytest.mark.parametrize("kind", ["none", "absent", "a file"])
def test_raw_dir_must_be_a_folder(tmp_path, kind):
    (tmp_path / "a file").write_text("")
    with pytest.raises(UserError) as error:
        sources.find_sources(TOYS, None if kind == "none" else tmp_path / kind)
    assert TOYS.interactions_address in str(error.value)
    assert TOYS.metadata_address in str(error.value)


def test_check_hashes_and_counts_lines(tmp_path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b"a\n\n  \nb\r\n\n"))
    source = sources.check_source(path)
    assert source.lines == 2
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(sources.open_lines(path)) == [
        (1, b"a"),
        (2, b""),
        (3, b"  "),
        (4, b"b"),
        (5, b""),
    ]


def test_every_truncation_of_a_gzip_file_is_found(tmp_path):
    path = tmp_path / "x.json.gz"
    whole = gzip.compress(b"".join(b'{"a": %d}\n' % i for i in range(50)))
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"x\.json\.gz.*(truncated|valid gzip).*after line"):
            sources.check_source(path)


def test_wrong_checksum_inside_gzip_is_found(tmp_path):
    path = tmp_path / "x.json.gz"
    broken = bytearray(gzip.compress(b'{"a": 1}\n'))
    broken[-8] ^= 1
    path.write_bytes(broken)
    with pytest.raises(UserError, match="not a valid gzip file"):
        sources.check_source(path)


def test_not_gzip(tmp_path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(b'{"a": 1}\n')
    with pytest.raises(UserError, match=r"valid gzip file.*after line 0.*download the file again"):
        sources.check_source(path)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_empty_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" and content else content)
    with pytest.raises(UserError, match="empty file"):
        sources.check_source(path)


def test_shorten():
    assert sources.shorten("ab") == "'ab'"
    assert len(sources.shorten("x" * 1000)) == 80
