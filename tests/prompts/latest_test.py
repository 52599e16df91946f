"""The split `latest`: every user once, with all items as the history and no target."""

import re

import numpy as np
import pytest
import seqio

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.engine.decoding import check_selection
from recllm_tasks.errors import UserError
from recllm_tasks.prompts.source import LATEST, SequenceSource

LENGTHS = {"inputs": 512, "targets": 64}
KINDS = ("retrieval", "ids_retrieval", "ids_sequence")
pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


def _examples(kind, split=LATEST, **options):
    task = tasks.get(f"gift_cards_{kind}")
    dataset = task.get_dataset(LENGTHS, split=split, shuffle=False, **options)
    return task, list(dataset.as_numpy_iterator())


@pytest.mark.parametrize("kind", KINDS)
def test_each_user_is_asked_for_what_comes_after_the_last_item(kind):
    task, examples = _examples(kind)
    source = SequenceSource("gift_cards")
    catalog = source.catalog()
    records = {r["user"]: r["items"] for r in source.records("test").as_numpy_iterator()}
    assert sorted(example["user"] for example in examples) == sorted(records)
    assert task.num_input_examples(LATEST) == len(examples) == 60
    vocabulary = task.output_features["inputs"].vocabulary
    for example in examples:
        items = records[example["user"]]
        np.testing.assert_array_equal(example["exclude"], items)
        np.testing.assert_array_equal(example["history"], items[-20:])
        assert example["target"] == -1
        assert len(example["targets"]) == 0
        given = "beginning" if kind == "ids_sequence" else "inputs"
        text = vocabulary.decode(example[given].tolist())
        ids = [catalog.short_id[row] for row in items[-20:]]
        if kind == "retrieval":
            assert re.findall(r"\bI\d+\b", text)[-2:] == ids[-2:], text
        else:
            assert text == " ".join(ids)


def test_the_prompt_is_that_of_the_other_splits():
    """Up to the target, which is the record's last item, `test` asks what `latest` would ask."""
    source = SequenceSource("gift_cards")
    task, examples = _examples("retrieval", "test")
    writer = tasks.prompt_of(task).writer(LENGTHS, task.output_features)
    batch = next(iter(source.evaluation_batches("test")))
    asked = writer.question({"history": batch["history"]})
    assert asked["inputs"].to_list() == [example["inputs"].tolist() for example in examples]


def test_hosts_share_the_users():
    _, alone = _examples("retrieval")
    parts = [_examples("retrieval", shard_info=seqio.ShardInfo(i, 2))[1] for i in range(2)]
    users = [example["user"] for part in parts for example in part]
    assert sorted(users) == sorted(example["user"] for example in alone)


def test_only_lists_made_of_the_whole_catalog_have_it():
    for name in seqio.TaskRegistry.names():
        if name.startswith("gift_cards_"):
            is_there = LATEST in seqio.TaskRegistry.get(name).splits
            assert is_there == (name.removeprefix("gift_cards_") in KINDS), name


def test_it_is_neither_measured_nor_learned():
    with pytest.raises(UserError, match=r"got 'latest', whose examples have no target to measure"):
        check_selection(LATEST, None)
    check_selection(LATEST, None, measured=False)
    with pytest.raises(UserError, match="or 'latest' for every user"):
        check_selection("train", None, measured=False)
    metric = tasks.RankedItems(SequenceSource("gift_cards"))
    with pytest.raises(UserError, match="the split 'latest' cannot be measured"):
        metric(["", ""], [["I1"], ["I2"]])
