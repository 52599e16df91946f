"""Options of a dataset reach its tasks: window, candidates, like threshold."""

import numpy as np
import pytest
import seqio

from recllm_tasks import mixtures
from recllm_tasks.baselines.interactions import Splits
from recllm_tasks.data.prepare import prepare
from recllm_tasks.data.specs import custom_spec
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.vocabulary_training import ensure_vocabulary

LENGTHS = {"inputs": 512, "targets": 64}


@pytest.fixture(scope="module")
def options_shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    lines = ["user,item,time,rating"]
    for user in range(30):
        lines += [f"u{user},i{(user * 7 + p) % 40},{p},{1 + p % 5}" for p in range(12)]
    (folder / "x.csv").write_text("\n".join(lines))
    spec = custom_spec("options_shop", [str(folder / "x.csv")])
    prepare(spec, folder / "data", window=4, candidates=8, like_threshold=1.0)
    mixtures.register_stored(folder / "data")
    ensure_vocabulary(CatalogSource("options_shop"))
    yield folder / "data"
    seqio.set_tfds_data_dir_override(None)


def examples(kind, split="train"):
    task = seqio.TaskRegistry.get(f"options_shop_{kind}")
    return list(task.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator())


@pytest.mark.usefixtures("options_shop")
@pytest.mark.parametrize("split", ["train", "test"])
def test_window_and_candidates(split):
    found = examples("ranking", split)
    assert len(found) == (30 * 6 if split == "train" else 30)
    for example in found:
        assert len(example["history"]) == 4
        assert len(example["candidates"]) == 8
        assert example["target"] in example["candidates"]


@pytest.mark.usefixtures("options_shop")
@pytest.mark.parametrize(("kind", "lengths"), [("mim", {4}), ("mlm", {2, 3, 4})])
def test_spans_fit_the_window(kind, lengths):
    assert {len(example["history"]) for example in examples(kind)} == lengths


@pytest.mark.usefixtures("options_shop")
def test_like_threshold():
    for example in examples("rating", "test"):
        assert example["target_liked"] == (example["target_rating"] > 1)
        np.testing.assert_array_equal(example["liked"], example["history_ratings"] > 1)
    assert Splits("options_shop", "test").of("rating").like_threshold == 1
