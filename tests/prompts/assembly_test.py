"""What is dropped when a prompt is too long, and what never is."""

import re

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.options import Options
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import templates
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import Items, Template, Wording
from recllm_tasks.prompts.vocabulary import DatasetVocabulary
from recllm_tasks.prompts.vocabulary_training import train_vocabulary, training_texts

NUM_ITEMS = 30


class FixedSource(CatalogSource):
    """Items whose titles get longer: item r has 3r + 1 words."""

    def __init__(self):
        super().__init__("fixed")
        empty = [""] * NUM_ITEMS
        self._catalog = Catalog(
            item=[f"A{r}" for r in range(NUM_ITEMS)],
            short_id=[f"I{r + 1}" for r in range(NUM_ITEMS)],
            title=["word " * 3 * r + "end" for r in range(NUM_ITEMS)],
            brand=empty,
            price=empty,
            categories=empty,
            description=empty,
            train_count=np.ones(NUM_ITEMS, np.int64),
        )

    def catalog(self):
        return self._catalog

    def info(self):
        return Options()


SOURCE = FixedSource()
RETRIEVAL = templates.RETRIEVAL.worded(Wording())


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("vocabulary") / "spiece.model")
    phrases = templates.fixed_phrases(Wording())
    texts = [*training_texts(SOURCE.catalog(), phrases), ("word end", 9)]
    train_vocabulary(path, texts, SOURCE.catalog().short_id, phrases)
    return DatasetVocabulary(lambda: path)


def _ragged(rows, dtype=tf.int32):
    return tf.ragged.constant(rows, dtype, ragged_rank=1, row_splits_dtype=tf.int64)


def _batch(histories, target):
    return {"history": _ragged(histories), "target": tf.fill([len(histories)], target)}


def _features(vocabulary):
    return {name: seqio.Feature(vocabulary) for name in ("inputs", "targets")}


def _written(vocabulary, template, histories, target, inputs_length):
    """The tokens of `inputs` of each example, written as one batch."""
    lengths = {"inputs": inputs_length, "targets": 32}
    writer = Prompt(template, SOURCE).writer(lengths, _features(vocabulary))
    return writer.write(writer.fit(_batch(histories, target)))["inputs"].to_list()


def _inputs(vocabulary, template, history, target, inputs_length):
    """The tokens of `inputs` of one example."""
    (inputs,) = _written(vocabulary, template, [history], target, inputs_length)
    return inputs


@settings(max_examples=60, deadline=None)
@given(
    histories=st.lists(
        st.lists(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=20), min_size=1, max_size=3
    ),
    length=st.integers(64, 400),
)
def test_whole_items_are_dropped_oldest_first(vocabulary, histories, length):
    written = _written(vocabulary, RETRIEVAL, histories, 3, length)
    for history, inputs in zip(histories, written, strict=True):
        assert inputs == _inputs(vocabulary, RETRIEVAL, history, 3, length)
        assert len(inputs) <= length
        text = vocabulary.decode(inputs)
        first, last = (part for part in RETRIEVAL.inputs if isinstance(part, str))
        assert text.startswith(first)
        assert text.endswith(last)
        items = re.findall(r"Item ID: I(\d+), Title: ([^;]*);", text)
        kept = [int(number) - 1 for number, _ in items]
        assert kept == history[len(history) - len(kept) :]
        assert kept, "the newest item always stays"
        for row, (_, title) in zip(kept, items):
            assert SOURCE.catalog().title[row].startswith(title)


def test_prompts_are_the_same_inside_map(vocabulary):
    histories = [[4] * 20, [1], [7, 29, 2]]
    lengths = {"inputs": 200, "targets": 32}
    prompt = Prompt(RETRIEVAL, SOURCE)
    writer = prompt.writer(lengths, _features(vocabulary))
    eager = writer.write(writer.fit(_batch(histories, 3)))
    dataset = tf.data.Dataset.from_tensors(_batch(histories, 3))
    (mapped,) = prompt(dataset, lengths, _features(vocabulary))
    for side in ("inputs", "targets"):
        assert mapped[side].to_list() == eager[side].to_list()
    assert len(eager["history"].to_list()[0]) < 20


def test_nothing_is_written_of_an_empty_batch(vocabulary):
    assert _written(vocabulary, RETRIEVAL, [], 3, 200) == []


def test_as_many_items_as_fit_are_kept(vocabulary):
    full = _inputs(vocabulary, RETRIEVAL, [4] * 20, 3, 4096)
    words = len(_inputs(vocabulary, RETRIEVAL, [4], 3, 4096))
    item = (len(full) - words) // 19
    for keep in (1, 5, 19):
        room = words + (keep - 1) * item
        assert len(_inputs(vocabulary, RETRIEVAL, [4] * 20, 3, room)) == room
        assert len(_inputs(vocabulary, RETRIEVAL, [4] * 20, 3, room + item - 1)) == room


def test_an_item_too_long_keeps_its_id_and_as_much_title_as_fits(vocabulary):
    longest = NUM_ITEMS - 1
    length = 80
    text = vocabulary.decode(_inputs(vocabulary, RETRIEVAL, [0, longest], 3, length))
    (title,) = re.findall(rf"Item ID: I{longest + 1}, Title: ((?:word ?)+);", text)
    one_more = text.replace(title, title + " word")
    assert len(vocabulary.encode(one_more)) + 1 > length


def test_too_short_for_any_item_is_refused(vocabulary):
    words = sum(len(vocabulary.encode(p)) for p in RETRIEVAL.inputs if isinstance(p, str))
    with pytest.raises(UserError, match=r"got room for 3, expected at least .* raise"):
        _inputs(vocabulary, RETRIEVAL, [0], 3, words + 1 + 3)
    with pytest.raises(UserError, match=r"Feature 'inputs' is too short.*TASK_FEATURE_LENGTHS"):
        _inputs(vocabulary, RETRIEVAL, [0], 3, words + 1)


def test_a_side_without_items_says_so(vocabulary):
    template = Template(
        inputs=("likes:", Items("history", where="liked", empty="none;"), "end"), targets=()
    )
    writer = Prompt(template, SOURCE).writer(None, _features(vocabulary))
    batch = {
        "history": _ragged([[1, 2], [1, 2], []]),
        "liked": _ragged([[False, False], [False, True], []], tf.bool),
    }
    texts = ["likes: none; end", f"likes: Item ID: I3, Title: {'word ' * 6}end; end"]
    texts.append(texts[0])
    assert [inputs for inputs, _ in writer.texts(batch)] == texts
    for tokens, text in zip(writer.write(batch)["inputs"].to_list(), texts, strict=True):
        assert tokens == [*vocabulary.encode(text), vocabulary.eos_id]
