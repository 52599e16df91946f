"""Titles of held-out items in the tokens of an example, where no id gives them away.

Short titles of one piece are not looked for: "Brush" is a word like any other.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import seqio

from recllm_tasks.audit.examples import Batch
from recllm_tasks.audit.records import Records
from recllm_tasks.data.sequences import HELD_OUT
from recllm_tasks.prompts.ragged import Ragged
from recllm_tasks.prompts.token_table import encode, write_item

# Our choice: this many pieces at a title's beginning tell it; the rest may be cut off in a prompt.
_PIECES = 12
_AT_LEAST = 2

ALL_TEXTS = "{title} {brand} {price} {categories} {description}"


class TitleReader:
    """Finds titles that nothing but a held-out item can have brought into an example."""

    def __init__(self, records: Records, vocabulary: seqio.Vocabulary, split: str):
        self._records, self._tokenizer = records, vocabulary.tokenizer
        self._known = records.splits[split].items
        self._held_out = records.splits["test"].items.last_columns(max(1, HELD_OUT[split]))
        values, splits = encode(
            (write_item(records.catalog, "{title}", row) for row in range(len(records.catalog))),
            vocabulary,
        )
        self._pattern_NxP, self._length_N = _patterns(Ragged(values.astype(np.int32), splits))
        self._text = functools.lru_cache(maxsize=1 << 14)(self._text)

    def read(self, batch: Batch) -> Iterator[tuple[int, int]]:
        """(example, row of the catalog) of each held-out item whose title alone is told."""
        is_known = batch.user >= 0
        for side in batch.texts:
            example = side.rows
            for column in range(self._held_out.shape[1]):
                rows = np.where(is_known, self._held_out[batch.user, column], -1)
                found = self._find(side.values, example, rows)
                yield from (
                    (number, int(rows[number]))
                    for number in found.tolist()
                    if self._is_told(batch, number, int(rows[number]))
                )

    def _find(self, tokens: np.ndarray, example: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Examples, int64 [n], whose tokens hold the beginning of the title of `rows` [B]."""
        first = np.where(
            (rows >= 0) & (self._length_N[rows] >= _AT_LEAST), self._pattern_NxP[rows, 0], -1
        )
        at = np.flatnonzero(tokens == first[example])
        of = example[at]
        for place in range(1, _PIECES):
            next_to = np.minimum(at + place, len(tokens) - 1)
            same = (tokens[next_to] == self._pattern_NxP[rows[of], place]) & (
                example[next_to] == of
            )
            kept = same | (self._length_N[rows[of]] <= place)
            at, of = at[kept], of[kept]
        return np.unique(of)

    def _is_told(self, batch: Batch, number: int, row: int) -> bool:
        """False if an item that the example may show has those words in its own text.

        Those are the user's earlier items, what is offered, and what is written with its id.
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
        """The vocabulary's own `decode` looks up its file again for every text."""
        return self._tokenizer.DecodeIds(tokens)


def _patterns(titles: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """The beginnings of titles, int32 [N, P], -1 behind the end, and their lengths, int64 [N].

    A longer title's last piece is left out: what follows in a prompt may be joined to it.
    """
    lengths = np.where(titles.lengths > _AT_LEAST, titles.lengths - 1, titles.lengths)
    lengths = np.minimum(lengths, _PIECES)
    places = titles.splits[:-1, np.newaxis] + np.arange(_PIECES)
    inside = np.arange(_PIECES) < lengths[:, np.newaxis]
    values = np.append(titles.values, np.int32(-1))
    return np.where(inside, values[np.where(inside, places, -1)], -1), lengths
