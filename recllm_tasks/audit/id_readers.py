"""Readers that find item ids in tokens.

`IdReader` finds short ids without decoding anything. For each piece of the vocabulary it knows
whether an id starts in it ("▁I12") and whether an id continues in it ("34", "34,"); NumPy then
joins the digits. The letters of semantic ids count as digits: "12a200b7c0" is a number in base 13.
It finds too many ids rather than too few: a title may contain something that looks like an id.

`NumberReader` finds items that a task writes as bare numbers, as P5's tasks do: "4110",
"item_7391?". It decodes the tokens, because pieces of an item's number look like pieces of any
other number. A user ("user_23") and a rating ("5.0") are not items.
"""

import itertools
import re

import numpy as np
import seqio

from recllm_tasks import tasks
from recllm_tasks.audit.ragged import Ragged
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.id_schemes import LETTERS
from recllm_tasks.prompts import p5
from recllm_tasks.prompts.templates import Items
from recllm_tasks.prompts.vocabulary import SENTINELS

_BEFORE = "(?:^|[^A-Za-z0-9])I"

# Base → digits. No id has more; a longer run of digits would overflow int64.
_MAX_DIGITS = {10: 12, 10 + len(LETTERS): 16}


class IdReader:
    """Reads the short ids of one catalog, all of one scheme, in one vocabulary."""

    def __init__(self, vocabulary: seqio.Vocabulary, catalog: Catalog):
        self._eos, self._pad = vocabulary.eos_id, vocabulary.pad_id
        self._first_sentinel = vocabulary.vocab_size - SENTINELS
        tokenizer = vocabulary.tokenizer
        pieces = tokenizer.IdToPiece(list(range(tokenizer.GetPieceSize())))
        pieces += [""] * (vocabulary.vocab_size - len(pieces))
        has_letters = any(letter in short_id for letter in LETTERS for short_id in catalog.short_id)
        digit = f"[0-9{LETTERS}]" if has_letters else "[0-9]"
        self._base = 10 + len(LETTERS) * has_letters
        self._max_digits = _MAX_DIGITS[self._base]
        starts = [re.search(f"{_BEFORE}((?:[0-9]{digit}*)?)$", piece) for piece in pieces]
        inside = [re.search(f"{_BEFORE}([0-9]{digit}*)(?!{digit}).", piece) for piece in pieces]
        leading = [re.match(f"{digit}+", piece) for piece in pieces]
        self._starts_id = np.array([match is not None for match in starts])
        self._start_digits, self._start_value = self._numbers(m and m[1] for m in starts)
        self._holds_id = np.array([match is not None for match in inside])
        self._held_digits, self._held_value = self._numbers(m and m[1] for m in inside)
        self._next_digits, self._next_value = self._numbers(m and m[0] for m in leading)
        self._may_continue = np.array([m is not None and m.end() == len(m.string) for m in leading])
        _, catalog_value = self._numbers(short_id[1:] for short_id in catalog.short_id)
        self._order = np.argsort(catalog_value)
        self._catalog_value = catalog_value[self._order]

    def read(self, tokens: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """(row of `tokens`, row of the catalog) of every id, int64 [n] each."""
        values = tokens.values
        at = np.flatnonzero(self._starts_id[values])
        example = np.searchsorted(tokens.splits, at, side="right") - 1
        end = tokens.splits[example + 1]
        number, digits = self._start_value[values[at]], self._start_digits[values[at]]
        open_ids, place = np.arange(len(at)), at + 1
        while len(open_ids):
            has_room = digits[open_ids] <= self._max_digits
            open_ids = open_ids[(place[open_ids] < end[open_ids]) & has_room]
            piece = values[place[open_ids]]
            more = self._next_digits[piece]
            open_ids, piece, more = open_ids[more > 0], piece[more > 0], more[more > 0]
            number[open_ids] = number[open_ids] * self._base**more + self._next_value[piece]
            digits[open_ids] += more
            place[open_ids] += 1
            open_ids = open_ids[self._may_continue[piece]]
        within = np.flatnonzero(self._holds_id[values])
        example = np.append(example, np.searchsorted(tokens.splits, within, side="right") - 1)
        number = np.append(number, self._held_value[values[within]])
        digits = np.append(digits, self._held_digits[values[within]])
        row = self._row_of(number, digits)
        return example[row >= 0], row[row >= 0]

    def _row_of(self, value: np.ndarray, digits: np.ndarray) -> np.ndarray:
        """The catalog row of the id with each value, int64 [n]; -1 where there is none."""
        if not len(self._order):
            return np.full(len(value), -1, np.int64)
        place = np.minimum(np.searchsorted(self._catalog_value, value), len(self._order) - 1)
        is_id = (self._catalog_value[place] == value) & (digits > 0) & (digits <= self._max_digits)
        return np.where(is_id, self._order[place], -1)

    def is_corrupted(self, inputs: Ragged) -> bool:
        """Whether the inputs contain sentinels, so that the targets hold the missing spans."""
        return bool((inputs.values >= self._first_sentinel).any())

    def reassemble(self, inputs: Ragged, targets: Ragged) -> Ragged:
        """The tokens before span corruption: each sentinel of `inputs` is replaced by its span."""
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
        """(number of digits, value) of each text, int64; 0 digits for None and for ""."""
        texts = [text or "" for text in texts]
        values = [int(t, self._base) if 0 < len(t) <= self._max_digits else 0 for t in texts]
        # A piece with more digits than any id counts as too long and does not overflow.
        digits = [min(len(text), self._max_digits + 1) for text in texts]
        return np.array(digits, np.int64), np.array(values, np.int64)


# A digit before or after a point belongs to a decimal.
_NUMBER = re.compile(r"(?<![\w.])(?:item_)?([0-9]{1,12})(?!\w|\.[0-9])")


def writes_numbers(task: seqio.Task) -> bool:
    """Whether the prompt of a task writes items as bare numbers."""
    prompt = tasks.prompt_of(task)
    if prompt is None:
        return False
    slots = (*prompt.template.inputs, *prompt.template.targets)
    return any(isinstance(slot, Items) and p5.NUMBER in slot.form for slot in slots)


class NumberReader:
    """Reads the numbers of one catalog's items; used in place of `IdReader`."""

    def __init__(self, vocabulary: seqio.Vocabulary, num_items: int):
        self._tokenizer, self._num_items = vocabulary.tokenizer, num_items

    def read(self, tokens: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """(row of `tokens`, row of the catalog) of every item, int64 [n] each."""
        values, splits = tokens.values.tolist(), tokens.splits.tolist()
        rows = [values[start:stop] for start, stop in itertools.pairwise(splits)]
        found = [
            (example, int(number) - 1)
            for example, text in enumerate(self._tokenizer.DecodeIds(rows))
            for number in _NUMBER.findall(text)
            if 1 <= int(number) <= self._num_items
        ]
        example, row = np.array(found, np.int64).reshape(-1, 2).T
        return example, row


def contains_number(vocabulary: seqio.Vocabulary, sides, row: int) -> bool:
    """Whether one of `sides`, arrays of tokens, contains the number of a catalog row."""
    texts = vocabulary.tokenizer.DecodeIds([side.tolist() for side in sides])
    return any(int(number) == row + 1 for text in texts for number in _NUMBER.findall(text))
