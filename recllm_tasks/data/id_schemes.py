"""Id schemes: how short ids are written, and which parts of them are one piece of a vocabulary.

`random` and `atomic` ids are "I123", a number drawn with the dataset's seed; an atomic id is always
one piece of the vocabulary. A `semantic` id is "I12a200b7c0": the codes of the item's content
(`semantic_ids.py`), from coarse to fine, with a letter after each level, and a last number that
tells items with equal codes apart. All ids start with "I" and a digit, which is how other code
recognizes them. Letters: N items, C numbers of an id.
"""

import re
from collections.abc import Sequence

import numpy as np

# One after each number of a semantic id but the last.
LETTERS = "abc"

# Codes per level. Our choice: as in TIGER. Larger numbers are not single pieces.
MAX_CODES = 256

_NUMBERED = re.compile(r"I([0-9]+)")
_SEMANTIC = re.compile("I([0-9]+)" + "".join(f"{letter}([0-9]+)" for letter in LETTERS))


def numbered(size: int) -> list[str]:
    """I1, I2, … for a catalog in random order."""
    return [f"I{row + 1}" for row in range(size)]


def write_codes(codes_NxC: np.ndarray) -> list[str]:
    """Semantic ids from their numbers."""
    form = "I%d" + "".join(f"{letter}%d" for letter in LETTERS)
    return [form % tuple(codes) for codes in codes_NxC.tolist()]


def read_numbers(short_ids: Sequence[str]) -> np.ndarray:
    """The numbers of short ids of one scheme: int64 [N, 4] for semantic ids, else [N, 1]."""
    is_semantic = len(short_ids) > 0 and _SEMANTIC.fullmatch(short_ids[0])
    pattern = _SEMANTIC if is_semantic else _NUMBERED
    numbers = []
    for text in short_ids:
        found = pattern.fullmatch(text)
        if not found:
            raise ValueError(f"short ids: got {text!r} after {short_ids[0]!r}, expected one scheme")
        numbers.append([int(number) for number in found.groups()])
    return np.array(numbers, np.int64).reshape(len(numbers), pattern.groups)


def code_pieces(short_ids: Sequence[str]) -> list[str]:
    """The distinct parts of semantic ids, such as " I12", "a200", "b7" and "c0".

    Only numbers below `MAX_CODES` count. A part that starts a word has a space in front.
    """
    numbers = read_numbers(short_ids)
    return [
        f"{letter}{number}"
        for letter, column in zip((" I", *LETTERS), numbers.T)
        for number in np.unique(column[column < MAX_CODES])
    ]
