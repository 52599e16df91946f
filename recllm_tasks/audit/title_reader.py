"""Finds titles of held-out items in an example's tokens, where no id reveals them.

Titles of a single piece are ignored: "Brush" is a word like any other.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import seqio

from recllm_tasks.audit.examples import Batch
from recllm_tasks.audit.ragged import Ragged
from recllm_tasks.audit.records import Records
from recllm_tasks.prompts.token_table import encode, write_item

# Our choice: a title is identified by this many first pieces; a prompt may cut off the rest.
_MAX_PIECES = 12
_MIN_PIECES = 2

ALL_TEXTS = "{title} {brand} {price} {categories} {description}"


class TitleReader:
    """Finds titles that can only come from a held-out item."""

    def __init__(self, records: Records, vocabulary: seqio.Vocabulary, split: str):
        self._records, self._tokenizer = records, vocabulary.tokenizer
        self._known = records.splits[split].items
        self._later = records.later(split)
        values, splits = encode(
            (write_item(records.catalog, "{title}", row) for row in range(len(records.catalog))),
            vocabulary,
        )
        self._pattern_NxP, self._length_N = _patterns(Ragged(values.astype(np.int32), splits))
        self._text = functools.lru_cache(maxsize=1 << 14)(self._text)

    def read(self, batch: Batch) -> Iterator[tuple[int, int]]:
        """Yields (example, row of the catalog) for each held-out item revealed by its title."""
        starts, lengths = self._later.splits[batch.user], self._later.lengths[batch.user]
        lengths = np.where(batch.user >= 0, lengths, 0)
        for place in range(int(lengths.max(initial=0))):
            examples = np.flatnonzero(lengths > place)
            rows = np.full(len(batch), -1)
            rows[examples] = self._later.values[starts[examples] + place]
            for side in batch.texts:
                part = side.take(examples)
                found = self._find(part.values, examples[part.rows], rows)
                yield from (
                    (number, int(rows[number]))
                    for number in found.tolist()
                    if self._is_revealed(batch, number, int(rows[number]))
                )

    def _find(self, tokens: np.ndarray, example: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The examples, int64 [n], whose tokens contain the start of the title of `rows` [B]."""
        first = np.where(
            (rows >= 0) & (self._length_N[rows] >= _MIN_PIECES), self._pattern_NxP[rows, 0], -1
        )
        at = np.flatnonzero(tokens == first[example])
        found = example[at]
        for place in range(1, _MAX_PIECES):
            following = np.minimum(at + place, len(tokens) - 1)
            is_same = (tokens[following] == self._pattern_NxP[rows[found], place]) & (
                example[following] == found
            )
            kept = is_same | (self._length_N[rows[found]] <= place)
            at, found = at[kept], found[kept]
        return np.unique(found)

    def _is_revealed(self, batch: Batch, number: int, row: int) -> bool:
        """False if the text of an item that the example may contain has the same words.

        Those are the user's earlier items, offered items, and items whose ids are in the tokens.
        """
        words = self._decode(self._pattern_NxP[row, : self._length_N[row]].tolist())
        if not any(words in self._decode(side[number].tolist()) for side in batch.texts):
            return False
        shown = [ids.row[ids.example == number] for ids in (batch.in_inputs, batch.in_targets)]
        rows = np.unique(
            np.concatenate([self._known[int(batch.user[number])], batch.offered[number], *shown])
        )
        return not any(words in self._text(int(other)) for other in rows)

    def _text(self, row: int) -> str:
        text = write_item(self._records.catalog, ALL_TEXTS, row)
        return self._decode(self._tokenizer.EncodeAsIds(text))

    def _decode(self, tokens: Sequence[int]) -> str:
        """Faster than the vocabulary's `decode`, which looks up its file for every text."""
        return self._tokenizer.DecodeIds(tokens)


def _patterns(titles: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """The first pieces of titles, int32 [N, P] padded with -1, and their number, int64 [N].

    The last piece of a longer title is left out: a prompt may merge it with what follows.
    """
    lengths = np.where(titles.lengths > _MIN_PIECES, titles.lengths - 1, titles.lengths)
    lengths = np.minimum(lengths, _MAX_PIECES)
    places = titles.splits[:-1, np.newaxis] + np.arange(_MAX_PIECES)
    inside = np.arange(_MAX_PIECES) < lengths[:, np.newaxis]
    values = np.append(titles.values, np.int32(-1))
    return np.where(inside, values[np.where(inside, places, -1)], -1), lengths
