"""The paper's Table 11, word for word, from its items: as text, and as tokens."""

import importlib.util
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.options import Options
from recllm_tasks.prompts import templates
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import Wording
from recllm_tasks.prompts.vocabulary import DatasetVocabulary
from recllm_tasks.prompts.vocabulary_training import train_vocabulary

_SPEC = importlib.util.spec_from_file_location(
    "table_11", pathlib.Path(__file__).with_name("table_11.py")
)
paper = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(paper)

AMAZON = Wording("Amazon products", "buy", "purchased")


class PaperSource(CatalogSource):
    """The items that Table 11 names."""

    def __init__(self):
        super().__init__("table_11")
        short_ids = [*paper.ITEMS, *_candidates_without_title()]
        empty = [""] * len(short_ids)
        self._catalog = Catalog(
            item=short_ids,
            short_id=short_ids,
            title=[paper.ITEMS.get(i, "") for i in short_ids],
            brand=empty,
            price=empty,
            categories=empty,
            description=empty,
            train_count=np.ones(len(short_ids), np.int64),
        )

    def catalog(self):
        return self._catalog

    def info(self):
        return Options()

    def rows(self, short_ids):
        return tf.constant([self._catalog.short_id.index(i) for i in short_ids], tf.int32)


def _candidates_without_title():
    listed = [i.strip(",.") for i in paper.CANDIDATES.split()]
    return list(dict.fromkeys(i for i in listed if i not in paper.ITEMS))


@pytest.fixture(scope="module")
def source():
    return PaperSource()


@pytest.fixture(scope="module", params=["own", "t5"])
def vocabulary(request, tmp_path_factory, source):
    if request.param == "t5":
        path = request.getfixturevalue("shared") / "vocab" / "t5.spiece.model"
    else:
        path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
        texts = [side for example in _TEXTS.values() for side in example] * 3
        phrases = templates.fixed_phrases(templates.Wording())
        train_vocabulary(
            str(path), [(text, 1) for text in texts], source.catalog().short_id, phrases
        )
    return DatasetVocabulary(lambda: str(path))


_TEXTS = {
    "retrieval": paper.RETRIEVAL,
    "ranking": paper.RANKING,
    "rating": paper.RATING,
    "mim": paper.MIM,
    "bpr": paper.BPR,
    "mlm": (paper.MLM, ""),
}

_TEMPLATES = {
    "retrieval": templates.RETRIEVAL,
    "ranking": templates.RANKING,
    "rating": templates.RATING,
    "mim": templates.MASKED_ITEM_MODELING,
    "bpr": templates.PERSONALIZED_RANKING,
    "mlm": templates.MASKED_LANGUAGE_MODELING,
}


def _batch(kind, source, size):
    """`size` examples, all of them the paper's."""
    return {
        name: tf.RaggedTensor.from_tensor(tf.stack([value] * size), row_splits_dtype=tf.int64)
        if value.shape.rank
        else tf.fill([size], value)
        for name, value in _example(kind, source).items()
    }


def _example(kind, source):
    history = paper.HISTORY
    if kind == "mim":
        history = [*paper.HISTORY, paper.TARGET]
    if kind == "mlm":
        history = ["I7811", "I9440"]
    return {
        "history": source.rows(history),
        "target": source.rows([paper.TARGET])[0],
        "candidates": source.rows([i.strip(",.") for i in paper.CANDIDATES.split()]),
        "pair": source.rows([paper.NEGATIVE, paper.TARGET]),
        "masked": tf.constant([i in paper.MASKED for i in history]),
        "liked": tf.constant([i in paper.LIKED for i in history]),
        "disliked": tf.constant([i in paper.DISLIKED for i in history]),
        "target_liked": tf.constant(0),
    }


@pytest.mark.parametrize("kind", list(_TEXTS))
def test_text_is_the_papers(kind, source, vocabulary):
    prompt = Prompt(_TEMPLATES[kind].worded(AMAZON), source)
    writer = prompt.writer({"inputs": 1024, "targets": 256}, _features(vocabulary))
    for size in (1, 3):
        assert writer.texts(_batch(kind, source, size)) == [_TEXTS[kind]] * size


@pytest.mark.parametrize("kind", list(_TEXTS))
@pytest.mark.parametrize("inside_map", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_tokens_are_those_of_the_whole_text(kind, inside_map, size, source, vocabulary):
    prompt = Prompt(_TEMPLATES[kind].worded(AMAZON), source)
    lengths = {"inputs": 1024, "targets": 256}
    batch = _batch(kind, source, size)
    if inside_map:
        dataset = tf.data.Dataset.from_tensors(batch)
        (written,) = prompt(dataset, lengths, _features(vocabulary))
    else:
        written = prompt.writer(lengths, _features(vocabulary)).write(batch)
    for side, text in zip(("inputs", "targets"), _TEXTS[kind]):
        tokens = [*vocabulary.encode(text), vocabulary.eos_id]
        assert written[side].to_list() == [tokens] * size


def test_movies_have_their_own_words(source, vocabulary):
    movies = Wording("movies", "watch", "watched")
    writer = Prompt(templates.RETRIEVAL.worded(movies), source).writer(None, _features(vocabulary))
    history = tf.RaggedTensor.from_tensor([source.rows(["I158"])], row_splits_dtype=tf.int64)
    ((inputs, _),) = writer.texts({"history": history, "target": source.rows(["I27"])})
    assert inputs.startswith("A user has watched the following movies (arranged in chronological")
    assert inputs.endswith("What would the user watch next?")


def _features(vocabulary):
    return {name: seqio.Feature(vocabulary) for name in ("inputs", "targets")}
