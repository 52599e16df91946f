"""A trie's file: what is read back, what is refused, and what two writers leave."""

import multiprocessing

import jax
import numpy as np
import pytest

from recllm_tasks.engine import trie_file
from recllm_tasks.models.trie import Trie

CATALOG = [[10, 20], [10], [11, 20, 21, 22], [30], [10, 21]]


def check_same(one, other):
    """Arrays, and by the structure of the tree what is no array."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "trie.npy"
    trie_file.save(Trie.build(CATALOG), path)
    return path


@pytest.mark.parametrize("catalog", [CATALOG, [[5]], [[i + 2, 7] for i in range(300)]])
def test_what_is_saved_is_loaded(catalog, tmp_path):
    trie = Trie.build(catalog)
    trie_file.save(trie, tmp_path / "trie.npy")
    loaded = trie_file.load(tmp_path / "trie.npy")
    check_same(loaded, trie)
    assert [file.name for file in tmp_path.iterdir()] == ["trie.npy"], "no temporary file is left"


def test_arrays_are_mapped_and_aligned_and_cannot_be_written(path):
    loaded = trie_file.load(path)
    for name in trie_file._ARRAYS:
        array = getattr(loaded, name)
        assert array.ctypes.data % 64 == 0
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_no_file(tmp_path):
    assert trie_file.load(tmp_path / "trie.npy") is None


def test_a_file_of_any_shorter_length_is_refused(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert trie_file.load(path) is None, length


def test_a_change_of_any_number_is_refused(path):
    flat = np.load(path)
    for i in range(len(flat)):
        changed = flat.copy()
        changed[i] ^= 1 << (i % 31)
        np.save(path, changed)
        assert trie_file.load(path) is None, i
    np.save(path, flat)
    check_same(trie_file.load(path), Trie.build(CATALOG))


@pytest.mark.parametrize(
    "content",
    [
        np.arange(200, dtype=np.int64),
        np.arange(200, dtype=np.int32).reshape(2, 100),
        np.zeros(0, np.int32),
        np.zeros(3, np.int32),
        np.zeros(16, np.int32),
        np.full(64, -5, np.int32),
        np.full(64, 2**31 - 1, np.int32),
        np.array([{"a": 1}], object),
    ],
)
def test_another_array_is_refused_and_nothing_is_unpickled(content, tmp_path):
    np.save(tmp_path / "trie.npy", content, allow_pickle=True)
    assert trie_file.load(tmp_path / "trie.npy") is None


def test_an_archive_is_refused(tmp_path):
    np.savez(tmp_path / "trie.npz", np.arange(9, dtype=np.int32))
    (tmp_path / "trie.npz").rename(tmp_path / "trie.npy")
    assert trie_file.load(tmp_path / "trie.npy") is None


def _save_again_and_again(path, times):
    for _ in range(times):
        trie_file.save(Trie.build(CATALOG), path)


def test_readers_never_see_half_a_file_while_two_processes_write(path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_save_again_and_again, args=(path, 40)) for _ in range(2)]
    for writer in writers:
        writer.start()
    expected = Trie.build(CATALOG)
    while any(writer.is_alive() for writer in writers):
        check_same(trie_file.load(path), expected)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert [file.name for file in path.parent.iterdir()] == ["trie.npy"]
