"""Embeddings of items from their texts: what is near what, and the vectors of a network."""

import dataclasses

import numpy as np
import pytest
import threadpoolctl

from recllm_tasks.data import item_embeddings
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.item_embeddings import check_embeddings, embed_texts, network_vectors
from recllm_tasks.data.metadata import ItemText
from recllm_tasks.data.semantic_ids import assign_codes
from recllm_tasks.data.sources import SourceFile
from recllm_tasks.errors import UserError

WIDTH = 16


def catalog_of(texts: list[ItemText]) -> Catalog:
    items = [f"i{row}" for row in range(len(texts))]
    return Catalog.build(items, dict(zip(items, texts, strict=True)), np.ones(len(texts)))


@pytest.fixture
def shop() -> Catalog:
    """40 items of four kinds and five brands; 40 is like 0, 41 and 42 have no text."""
    kinds = ("wooden puzzle", "soft doll", "racing car", "water gun")
    brands = ("Sun Toys", "Moon Games", "Star Play", "Sky Works", "")
    texts = [
        ItemText(f"{kinds[row % 4]} number {row}", brands[row % 5], categories=f"Toys > {row % 4}")
        for row in range(40)
    ]
    return catalog_of([*texts, texts[0], ItemText(price="$3"), ItemText()])


def vectors_of(catalog, source=None, width=WIDTH, seed=0):
    return network_vectors(catalog, source, "shop", seed, width, lambda done: None)


def test_one_letter_or_digit_tells_titles_apart():
    found = embed_texts(catalog_of([ItemText(f"Big Puzzle {n}") for n in "1234567AB"]), "shop", 0)
    assert len(np.unique(found, axis=0)) == 9


def test_a_brand_is_more_than_its_words():
    """Of items of different kinds, those of one brand are clearly nearer; all share "Toys"."""
    row = np.arange(18)
    kind, brand = row % 3, (row + row // 3) % 3
    kinds, brands = ("red doll", "green gun", "blue car"), ("Sun Toys", "Moon Toys", "Star Toys")
    texts = [
        ItemText(f"{kinds[k]} number {n // 3}", brands[b])
        for n, k, b in zip(row, kind, brand, strict=True)
    ]
    found = embed_texts(catalog_of(texts), "shop", 0)
    cosines, same = found @ found.T, brand[:, None] == brand
    other_kind = kind[:, None] != kind
    assert cosines[same & other_kind].mean() > cosines[~same & other_kind].mean() + 0.2


def test_vectors_of_a_network(shop):
    found = vectors_of(shop)
    assert (found.shape, found.dtype) == ((43, WIDTH), np.float32)
    np.testing.assert_allclose(found[40], found[0], atol=1e-5)
    assert not found[41:].any(), "items without a text"
    assert np.square(found[:41]).mean() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(found[:41].mean(axis=0), 0, atol=1e-4)
    cosines = _cosines(found[:40])
    kind = np.arange(40) % 4
    same = kind[:, None] == kind
    assert cosines[same].mean() > cosines[~same].mean() + 0.3
    np.testing.assert_allclose(np.corrcoef(found[:41].T), np.eye(WIDTH), atol=1e-3)
    np.testing.assert_array_equal(found, vectors_of(shop))


def _cosines(vectors):
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units @ units.T


def test_a_models_vector_of_no_text_is_left_out(shop, tmp_path, monkeypatch):
    points = np.eye(43, dtype=np.float32)
    monkeypatch.setattr(item_embeddings, "embed_with_model", lambda *arguments: points)
    found = vectors_of(shop, SourceFile(tmp_path, "", -1))
    assert found[:41].any(axis=1).all()
    assert not found[41:].any()


@pytest.mark.parametrize("width", [1, 8, 300])
def test_any_width(shop, width):
    """Also more axes than there are items, of which some stay 0."""
    found = vectors_of(shop, width=width)
    assert found.shape == (43, width)
    assert np.square(found[:41]).mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("width", [3, 12, 20])
def test_vectors_from_a_file_keep_their_centred_cosines(shop, tmp_path, width):
    """12 numbers each, of which three tell items apart."""
    generator = np.random.Generator(np.random.Philox(0))
    points = generator.normal(size=[43, 3]) @ generator.normal(size=[3, 12]) + 5
    rows = np.zeros(43, [("item", "U4"), ("embedding", "f4", (12,))])
    rows["item"], rows["embedding"] = shop.item, points
    np.save(tmp_path / "e.npy", rows)
    found = vectors_of(shop, check_embeddings(tmp_path / "e.npy"), width)
    centred = points - points.mean(axis=0)
    np.testing.assert_allclose(_cosines(found), _cosines(centred), atol=1e-4)


def test_items_that_texts_do_not_tell_apart_have_no_vector(shop):
    assert not vectors_of(catalog_of([ItemText("the same")] * 5)).any()
    with pytest.raises(UserError, match=r"texts of 'shop': got no words for its 5 items"):
        vectors_of(catalog_of([ItemText("?!")] * 5))


def test_any_number_of_threads_gives_the_same_numbers(shop):
    texts = [
        dataclasses.replace(ItemText(), title=f"{a} {b} {a * b % 97}")
        for a in range(60)
        for b in range(50)
    ]
    large = catalog_of(texts)
    found = []
    for threads in (1, 2, 3):
        with threadpoolctl.threadpool_limits(threads):
            embeddings = embed_texts(large, "shop", 0)
            found.append((embeddings, assign_codes(embeddings, 0), vectors_of(large)))
    for other in found[1:]:
        for first, second in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(first, second)
