"""The item ids in a stretch of tokens, read off the tokens themselves.

Nothing is decoded: of each piece of the vocabulary it is known whether an id begins in it ("▁I12")
and whether one goes on in it ("34", "34,"), and digits are put together with NumPy. It finds too
much rather than too little: a title may hold what looks like an id.
"""

import re

import numpy as np
import seqio

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.prompts.ragged import Ragged
from recllm_tasks.prompts.vocabulary import SENTINELS

_BEGINS = re.compile(r"(?:^|[^A-Za-z0-9])I([0-9]*)$")
_INSIDE = re.compile(r"(?:^|[^A-Za-z0-9])I([0-9]+)[^0-9]")
_LEADING = re.compile(r"[0-9]+")

# No id is longer; what is, stays out of int64's way.
_MAX_DIGITS = 12


class IdReader:
    """Reads the short ids (`I` and a number) of one catalog written in one vocabulary."""

    def __init__(self, vocabulary: seqio.Vocabulary, catalog: Catalog):
        self._eos, self._pad = vocabulary.eos_id, vocabulary.pad_id
        self._first_sentinel = vocabulary.vocab_size - SENTINELS
        tokenizer = vocabulary.tokenizer
        pieces = tokenizer.IdToPiece(list(range(tokenizer.GetPieceSize())))
        pieces += [""] * (vocabulary.vocab_size - len(pieces))
        begins = [_BEGINS.search(piece) for piece in pieces]
        inside = [_INSIDE.search(piece) for piece in pieces]
        leading = [_LEADING.match(piece) for piece in pieces]
        self._begins = np.array([match is not None for match in begins])
        self._first_digits, self._first_value = _numbers(m and m[1] for m in begins)
        self._is_inside = np.array([match is not None for match in inside])
        self._inside_digits, self._inside_value = _numbers(m and m[1] for m in inside)
        self._more_digits, self._more_value = _numbers(m and m[0] for m in leading)
        self._goes_on = np.array([m is not None and m.end() == len(m.string) for m in leading])
        numbers = np.array([int(short_id[1:]) for short_id in catalog.short_id], np.int64)
        self._row_of = np.full(numbers.max(initial=0) + 2, -1, np.int64)
        self._row_of[numbers] = np.arange(len(numbers))

    def read(self, tokens: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """(row of `tokens`, row of the catalog) of every id, int64 [n] each."""
        values = tokens.values
        at = np.flatnonzero(self._begins[values])
        example = np.searchsorted(tokens.splits, at, side="right") - 1
        end = tokens.splits[example + 1]
        number, digits = self._first_value[values[at]], self._first_digits[values[at]]
        going, place = np.arange(len(at)), at + 1
        while len(going):
            going = going[(place[going] < end[going]) & (digits[going] <= _MAX_DIGITS)]
            piece = values[place[going]]
            more = self._more_digits[piece]
            going, piece, more = going[more > 0], piece[more > 0], more[more > 0]
            number[going] = number[going] * 10**more + self._more_value[piece]
            digits[going] += more
            place[going] += 1
            going = going[self._goes_on[piece]]
        within = np.flatnonzero(self._is_inside[values])
        example = np.append(example, np.searchsorted(tokens.splits, within, side="right") - 1)
        number = np.append(number, self._inside_value[values[within]])
        digits = np.append(digits, self._inside_digits[values[within]])
        known = (digits > 0) & (digits <= _MAX_DIGITS) & (number < len(self._row_of))
        row = self._row_of[np.where(known, number, -1)]
        return example[row >= 0], row[row >= 0]

    def is_corrupted(self, inputs: Ragged) -> bool:
        """Whether sentinels stand for spans that the targets hold."""
        return bool((inputs.values >= self._first_sentinel).any())

    def reassemble(self, inputs: Ragged, targets: Ragged) -> Ragged:
        """The tokens before span corruption: each sentinel of `inputs` gives way to its span."""
        sides = []
        for side, after in ((inputs, 0), (targets, -1)):
            sentinel = side.values >= self._first_sentinel
            passed = np.concatenate([[0], np.cumsum(sentinel)])
            span = passed[1:] - np.repeat(passed[side.splits[:-1]], side.lengths)
            kept = ~sentinel & (side.values != self._eos) & (side.values != self._pad)
            sides.append((side.rows[kept], (2 * span + after)[kept], side.values[kept]))
        row, span, values = (np.concatenate(columns) for columns in zip(*sides))
        order = np.lexsort((span, row))
        return Ragged.of_lengths(values[order], np.bincount(row, minlength=len(inputs)))


def _numbers(texts) -> tuple[np.ndarray, np.ndarray]:
    """(how many digits, their value) of each text, int64; 0 digits for None and for ""."""
    texts = [text or "" for text in texts]
    values = [int(text) if 0 < len(text) <= _MAX_DIGITS else 0 for text in texts]
    # A piece of more digits than any id counts as too many, not as an overflow.
    digits = [min(len(text), _MAX_DIGITS + 1) for text in texts]
    return np.array(digits, np.int64), np.array(values, np.int64)
