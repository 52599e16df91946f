"""The item ids in a stretch of tokens, read off the tokens themselves.

Nothing is decoded: of each piece of the vocabulary it is known whether an id begins in it ("▁I12")
and whether one goes on in it ("34", "34,"), and digits are put together with NumPy. The letters of
semantic ids count as digits too: "12a200b7c0" is a number of base 13. It finds too much rather than
too little: a title may hold what looks like an id.
"""

import re

import numpy as np
import seqio

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.id_schemes import LETTERS
from recllm_tasks.prompts.ragged import Ragged
from recllm_tasks.prompts.vocabulary import SENTINELS

_BEFORE = "(?:^|[^A-Za-z0-9])I"

# No id is longer; what is, stays out of int64's way.
_MAX_DIGITS = {10: 12, 10 + len(LETTERS): 16}


class IdReader:
    """Reads the short ids, all of one scheme, of one catalog written in one vocabulary."""

    def __init__(self, vocabulary: seqio.Vocabulary, catalog: Catalog):
        self._eos, self._pad = vocabulary.eos_id, vocabulary.pad_id
        self._first_sentinel = vocabulary.vocab_size - SENTINELS
        tokenizer = vocabulary.tokenizer
        pieces = tokenizer.IdToPiece(list(range(tokenizer.GetPieceSize())))
        pieces += [""] * (vocabulary.vocab_size - len(pieces))
        has_letters = any(letter in short_id for letter in LETTERS for short_id in catalog.short_id)
        digit = f"[0-9{LETTERS}]" if has_letters else "[0-9]"
        self._base = 10 + len(LETTERS) * has_letters
        self._most = _MAX_DIGITS[self._base]
        begins = [re.search(f"{_BEFORE}((?:[0-9]{digit}*)?)$", piece) for piece in pieces]
        inside = [re.search(f"{_BEFORE}([0-9]{digit}*)(?!{digit}).", piece) for piece in pieces]
        leading = [re.match(f"{digit}+", piece) for piece in pieces]
        self._begins = np.array([match is not None for match in begins])
        self._first_digits, self._first_value = self._numbers(m and m[1] for m in begins)
        self._is_inside = np.array([match is not None for match in inside])
        self._inside_digits, self._inside_value = self._numbers(m and m[1] for m in inside)
        self._more_digits, self._more_value = self._numbers(m and m[0] for m in leading)
        self._goes_on = np.array([m is not None and m.end() == len(m.string) for m in leading])
        _, own_value = self._numbers(short_id[1:] for short_id in catalog.short_id)
        self._order = np.argsort(own_value)
        self._own_value = own_value[self._order]

    def read(self, tokens: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """(row of `tokens`, row of the catalog) of every id, int64 [n] each."""
        values = tokens.values
        at = np.flatnonzero(self._begins[values])
        example = np.searchsorted(tokens.splits, at, side="right") - 1
        end = tokens.splits[example + 1]
        number, digits = self._first_value[values[at]], self._first_digits[values[at]]
        going, place = np.arange(len(at)), at + 1
        while len(going):
            going = going[(place[going] < end[going]) & (digits[going] <= self._most)]
            piece = values[place[going]]
            more = self._more_digits[piece]
            going, piece, more = going[more > 0], piece[more > 0], more[more > 0]
            number[going] = number[going] * self._base**more + self._more_value[piece]
            digits[going] += more
            place[going] += 1
            going = going[self._goes_on[piece]]
        within = np.flatnonzero(self._is_inside[values])
        example = np.append(example, np.searchsorted(tokens.splits, within, side="right") - 1)
        number = np.append(number, self._inside_value[values[within]])
        digits = np.append(digits, self._inside_digits[values[within]])
        known = self._own(number, digits)
        return example[known >= 0], known[known >= 0]

    def _own(self, value: np.ndarray, digits: np.ndarray) -> np.ndarray:
        """The row of the catalog whose id has that value, -1 for none, int64 [n]."""
        if not len(self._order):
            return np.full(len(value), -1, np.int64)
        place = np.minimum(np.searchsorted(self._own_value, value), len(self._order) - 1)
        is_own = (self._own_value[place] == value) & (digits > 0) & (digits <= self._most)
        return np.where(is_own, self._order[place], -1)

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

    def _numbers(self, texts) -> tuple[np.ndarray, np.ndarray]:
        """(how many digits, their value) of each text, int64; 0 digits for None and for ""."""
        texts = [text or "" for text in texts]
        values = [int(t, self._base) if 0 < len(t) <= self._most else 0 for t in texts]
        # A piece of more digits than any id counts as too many, not as an overflow.
        digits = [min(len(text), self._most + 1) for text in texts]
        return np.array(digits, np.int64), np.array(values, np.int64)
