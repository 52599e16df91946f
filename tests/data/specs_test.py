import dataclasses

import pytest

from recllm_tasks.data import specs
from recllm_tasks.errors import UserError


def test_knows_the_five_datasets():
    assert list(specs.SPECS) == ["toys", "beauty", "sports", "gift_cards", "movielens_100k"]
    assert all(spec.name == name for name, spec in specs.SPECS.items())


def test_names_files_as_published():
    toys, gifts = specs.get_spec("toys"), specs.get_spec("gift_cards")
    assert toys.interactions_file == "reviews_Toys_and_Games_5.json.gz"
    assert toys.metadata_address == (
        "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/meta_Toys_and_Games.json.gz"
    )
    assert gifts.interactions_address.endswith("categoryFilesSmall/Gift_Cards_5.json.gz")
    assert gifts.metadata_address.endswith("metaFiles2/meta_Gift_Cards.json.gz")


def test_wording_of_each_domain():
    movies, toys = specs.get_spec("movielens_100k"), specs.get_spec("toys")
    assert (movies.noun, movies.verb, movies.verb_past) == ("movies", "watch", "watched")
    assert (toys.noun, toys.verb, toys.verb_past) == ("Amazon products", "buy", "purchased")


def test_an_unknown_name_lists_known_and_similar_ones():
    with pytest.raises(UserError, match=r"got 'toy', expected one of toys, beauty.*mean 'toys'"):
        specs.get_spec("toy")
    with pytest.raises(UserError, match=r"got 'qqq'.*choose one"):
        specs.get_spec("qqq")


def test_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        specs.get_spec("toys").noun = "x"
