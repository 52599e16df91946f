"""Arrays in files: no byte changes unnoticed, the header's included."""

import numpy as np
import pytest

from recllm_tasks import array_file


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_what_is_written_is_read_by_us_and_by_numpy(tmp_path, dtype):
    values = np.arange(50, dtype=dtype)
    array_file.write(tmp_path / "a.npy", values.dtype, [values[:20].data, values[20:].data])
    found = array_file.read(tmp_path / "a.npy", values.dtype)
    np.testing.assert_array_equal(found, values)
    assert not found.flags.writeable
    block = array_file.CHECKSUM_BYTES // values.itemsize
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy")[block:], values)


def test_a_change_of_any_byte_is_noticed(tmp_path):
    path, values = tmp_path / "a.npy", np.arange(40, dtype=np.int32)
    array_file.write(path, values.dtype, [values.data])
    whole = path.read_bytes()
    for place in range(len(whole)):
        # The last one turns a space of the header into a tab.
        for change in (0x01, 0x80, 0xFF, 0x29):
            content = bytearray(whole)
            content[place] ^= change
            path.write_bytes(content)
            assert array_file.read(path, values.dtype) is None, (place, change)


def test_what_is_no_such_file_is_refused(tmp_path):
    for content in (b"", b"x", b"\x93NUMPY\x01\x00"):
        (tmp_path / "a.npy").write_bytes(content)
        assert array_file.read(tmp_path / "a.npy", np.dtype(np.int32)) is None
    assert array_file.read(tmp_path / "none.npy", np.dtype(np.int32)) is None
    assert array_file.read(tmp_path, np.dtype(np.int32)) is None
