"""Items of similar texts, against cosines that scikit-learn computes, and the scores they join."""

import dataclasses

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from recllm_tasks.data import text_similarity
from recllm_tasks.data.item_to_item import SLOW, history_weights, joint_scores, similarity
from recllm_tasks.prompts.source import SequenceSource

pytestmark = pytest.mark.usefixtures("small_data")


@pytest.fixture
def catalog():
    return SequenceSource("gift_cards").catalog()


def _without_brands(catalog):
    return dataclasses.replace(catalog, brand=[""] * len(catalog))


def test_neighbours_have_the_third_power_of_their_cosine(catalog, monkeypatch):
    monkeypatch.setattr(text_similarity, "NEIGHBOURS", 5)
    monkeypatch.setattr(text_similarity, "_BLOCK", 7)
    catalog = _without_brands(catalog)
    found = text_similarity.text_similarity(catalog, "gift_cards").toarray()
    texts = map(" ".join, zip(catalog.title, catalog.categories, catalog.description))
    words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True).fit_transform(texts)
    expected = cosine_similarity(words)
    np.fill_diagonal(expected, 0)
    for own, cosines in zip(found, expected):
        kept = np.argsort(-cosines, kind="stable")[:5]
        kept = kept[cosines[kept] > 0]
        assert sorted(np.flatnonzero(own)) == sorted(kept)
        np.testing.assert_allclose(own[kept], cosines[kept] ** 3, rtol=1e-4)


def test_words_of_many_items_are_left_out(catalog, monkeypatch):
    catalog = dataclasses.replace(
        catalog,
        **{name: [""] * len(catalog) for name in ("brand", "categories", "description")},
        title=[f"card {'rare' if row < 2 else row}" for row in range(len(catalog))],
    )
    monkeypatch.setattr(text_similarity, "MOST_ITEMS_OF_A_WORD", len(catalog) - 1)
    found = text_similarity.text_similarity(catalog, "gift_cards")
    assert sorted(zip(*found.nonzero())) == [(0, 1), (1, 0)]


def test_a_catalog_without_texts_has_no_similar_items(catalog):
    columns = ("title", "brand", "categories", "description")
    empty = dataclasses.replace(catalog, **{name: [""] * len(catalog) for name in columns})
    found = text_similarity.text_similarity(empty, "gift_cards")
    assert found.shape == (len(catalog), len(catalog))
    assert not found.nnz


def test_both_similarities_have_the_same_say():
    sequences = [np.array(items, np.int32) for items in ([0, 1, 2], [0, 2], [3, 1])]
    by_users = similarity(sequences, 5, SLOW)
    by_texts = (by_users * 0).tolil()
    by_texts[0, 4] = 0.3
    by_texts[0, 1] = 0.1
    histories = [np.array([1, 0], np.int32), np.array([4], np.int32), np.zeros(0, np.int32)]
    found = joint_scores(histories, (by_users, by_texts.tocsr())).toarray()
    own = (history_weights(histories, 5, SLOW) @ by_users).toarray()[0]
    expected = own / own[[2, 3, 4]].sum()
    texts = np.array([0, 0.1, 0, 0, 0.3])
    expected = expected + texts / 0.3
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert not found[1:].any()
