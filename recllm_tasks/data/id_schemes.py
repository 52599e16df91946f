"""Id schemes: how short ids are written, and what of them a model should read as one piece.

`random` and `atomic`: "I123", a number that the dataset's seed draws; the two differ in the
vocabulary, in which an atomic id is always one piece. `semantic`: "I12a200b7c0", the codes of an
item's content (`semantic_ids.py`), coarse before fine, a letter behind each level, and at the end a
number that tells items of the same codes apart. All begin with "I" and a digit, so that whatever
reads or protects ids (`lookalikes.py`, the audit) knows them.
Letters: N items, C numbers of an id.
"""

import re
from collections.abc import Sequence

import numpy as np

RANDOM, SEMANTIC, ATOMIC = SCHEMES = ("random", "semantic", "atomic")

# One behind each number of a semantic id but the last.
LETTERS = "abc"

# Our choice, TIGER's: codes of a level. Larger numbers than that are not pieces of their own.
MAX_CODES = 256

_NUMBERED = re.compile(r"I([0-9]+)")
_SEMANTIC = re.compile("I([0-9]+)" + "".join(f"{letter}([0-9]+)" for letter in LETTERS))


def numbered(size: int) -> list[str]:
    """I1, I2, … of a catalog whose order is random."""
    return [f"I{row + 1}" for row in range(size)]


def write_codes(codes_NxC: np.ndarray) -> list[str]:
    """Semantic ids of their numbers."""
    form = "I%d" + "".join(f"{letter}%d" for letter in LETTERS)
    return [form % tuple(codes) for codes in codes_NxC.tolist()]


def read_numbers(short_ids: Sequence[str]) -> np.ndarray:
    """The numbers of short ids, all of one scheme: int64 [N, 1], or [N, 4] of semantic ones."""
    is_semantic = len(short_ids) > 0 and _SEMANTIC.fullmatch(short_ids[0])
    pattern = _SEMANTIC if is_semantic else _NUMBERED
    numbers = [[int(n) for n in pattern.fullmatch(text).groups()] for text in short_ids]
    return np.array(numbers, np.int64).reshape(len(numbers), pattern.groups)


def code_pieces(short_ids: Sequence[str]) -> list[str]:
    """The different parts of semantic ids: " I12", "a200", "b7", "c0", …, the lower numbers alone.

    A space stands before what starts a word.
    """
    numbers = read_numbers(short_ids)
    return [
        f"{letter}{number}"
        for letter, column in zip((" I", *LETTERS), numbers.T)
        for number in np.unique(column[column < MAX_CODES])
    ]
