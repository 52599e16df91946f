"""Bare numbers in a text: items are found, users and ratings are not."""

import numpy as np
import pytest

from recllm_tasks.audit.id_readers import NumberReader, contains_number
from recllm_tasks.audit.ragged import Ragged


class Letters:
    """A vocabulary whose pieces are characters."""

    @property
    def tokenizer(self):
        return self

    def DecodeIds(self, rows):
        return ["".join(map(chr, ids)) for ids in rows]


def tokens(*texts):
    values = np.array([ord(character) for text in texts for character in text], np.int32)
    return Ragged.of_lengths(values, np.array([len(text) for text in texts]))


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("of user_15: 4 -> 46 -> 7 I wonder", [4, 46, 7]),
        ("to user_25: 49 , 18 , 31", [49, 18, 31]),
        ("Will user_23 give item_73?", [73]),
        ("5.0", []),
        ("0 , 100 , 101 , 9999999999999", [100]),
        ("a12 12a x_5 3.5 7.", [7]),
    ],
)
def test_finds_the_numbers_of_items(text, items):
    example, row = NumberReader(Letters(), num_items=100).read(tokens("nothing", text))
    assert row.tolist() == [item - 1 for item in items]
    assert example.tolist() == [1] * len(items)
    side = tokens(text)[0]
    assert all(contains_number(Letters(), (side,), item - 1) for item in items)
    assert not contains_number(Letters(), (side,), 14)
