"""Chunks on disk: what was saved comes back, and nothing else does."""

import numpy as np
import pytest

from recllm_tasks.engine import beam_cache
from recllm_tasks.engine.beam_cache import BeamCache
from recllm_tasks.errors import UserError
from recllm_tasks.models.beam_search import Beams

EXAMPLES = [{"inputs": np.arange(1, n + 4), "candidates": np.array([n, 7])} for n in range(3)]
BEAMS = Beams(
    np.arange(3 * 2 * 4, dtype=np.int32).reshape(3, 2, 4),
    np.array([[-0.1, -2], [-0.3, -1e7], [-4, -5.5]], np.float32),
    np.array([[3, 4], [5, -1], [0, 1]], np.int32),
)
PARAMS = {"a": {"b": np.ones((2, 3), np.float32)}, "c": np.zeros(4, np.float32)}


@pytest.fixture
def cache(tmp_path):
    return BeamCache.of(str(tmp_path), "test", 40, {"num_beams": 2}, PARAMS)


def test_a_chunk_comes_back_as_it_was(cache, tmp_path):
    assert cache.load("toys_retrieval", 3, EXAMPLES) is None
    cache.save("toys_retrieval", 3, EXAMPLES, BEAMS, 1.5)
    (folder,) = (tmp_path / "eval").iterdir()
    assert folder.name.startswith("test-40-")
    assert [path.name for path in folder.iterdir()] == ["toys_retrieval-00003.npz"]
    beams, seconds = cache.load("toys_retrieval", 3, EXAMPLES)
    for got, expected in zip(beams, BEAMS):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype
    assert seconds == 1.5
    assert cache.load("toys_retrieval", 2, EXAMPLES) is None
    assert cache.load("toys_ranking", 3, EXAMPLES) is None


@pytest.mark.parametrize(
    "others",
    [
        EXAMPLES[:2],
        EXAMPLES[::-1],
        [{**example, "inputs": example["inputs"] + 1} for example in EXAMPLES],
        [{**example, "candidates": example["candidates"][::-1]} for example in EXAMPLES],
        [{"inputs": example["inputs"]} for example in EXAMPLES],
    ],
)
def test_beams_of_other_examples_are_not_taken(cache, others):
    cache.save("toys_ranking", 0, EXAMPLES, BEAMS, 1.0)
    assert cache.load("toys_ranking", 0, others) is None
    assert cache.load("toys_ranking", 0, EXAMPLES) is not None


@pytest.mark.parametrize(
    "other",
    [
        ("validation", 40, {"num_beams": 2}, PARAMS),
        ("test", 41, {"num_beams": 2}, PARAMS),
        ("test", 40, {"num_beams": 3}, PARAMS),
        ("test", 40, {"num_beams": 2}, {**PARAMS, "c": np.full(4, 1e-9, np.float32)}),
        ("test", 40, {"num_beams": 2}, {"a": PARAMS["a"], "d": PARAMS["c"]}),
    ],
)
def test_other_settings_and_parameters_have_other_folders(cache, tmp_path, other):
    cache.save("toys_ranking", 0, EXAMPLES, BEAMS, 1.0)
    others = BeamCache.of(str(tmp_path), *other)
    assert others.load("toys_ranking", 0, EXAMPLES) is None
    others.save("toys_ranking", 0, EXAMPLES, BEAMS, 1.0)
    cache.remove()
    assert cache.load("toys_ranking", 0, EXAMPLES) is None
    assert others.load("toys_ranking", 0, EXAMPLES) is not None
    others.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "eval").write_text("a file, not a folder")
    cache = BeamCache.of(str(tmp_path), "test", 40, {}, PARAMS)
    with pytest.raises(UserError, match=r"Beams for '.*/eval/test-40-.*got Not a directory"):
        cache.save("toys_ranking", 0, EXAMPLES, BEAMS, 1.0)


def test_a_broken_chunk_is_no_chunk(cache, tmp_path):
    cache.save("toys_ranking", 0, EXAMPLES, BEAMS, 1.0)
    (path,) = tmp_path.glob("eval/*/*.npz")
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        assert cache.load("toys_ranking", 0, EXAMPLES) is None
    taken = 0
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 0x5A
        path.write_bytes(broken)
        found = cache.load("toys_ranking", 0, EXAMPLES)
        if found:  # a date, or another byte that says nothing of the arrays
            taken += 1
            for got, expected in zip(found[0], BEAMS):
                np.testing.assert_array_equal(got, expected)
    assert taken < len(whole) / 2


def test_our_own_error_is_not_a_damaged_chunk(cache, monkeypatch):
    cache.save("toys_ranking", 0, EXAMPLES, BEAMS, 1.0)
    monkeypatch.setattr(beam_cache, "_digest", lambda examples: len(None))
    with pytest.raises(TypeError, match="has no len"):
        cache.load("toys_ranking", 0, EXAMPLES)
