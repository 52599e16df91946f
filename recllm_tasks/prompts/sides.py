"""One side of a prompt, inputs or targets: its parts, and the token tables of its slots.

Letters: B examples of a batch, n items, h items of a history, L tokens.
"""

import functools

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.errors import UserError
from recllm_tasks.prompts.batches import (
    Batch,
    join,
    lengths_of,
    limits_of,
    num_examples,
    of_columns,
    of_lengths,
    of_splits,
    row_sums,
    rows_of,
)
from recllm_tasks.prompts.slot_tables import slot_table
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import Choice, Items, Part, Slot, User, Varied
from recllm_tasks.prompts.token_table import item_text, tokenise

# The feature whose items may be dropped. Its slots in one template share the room that is left.
ELASTIC = "history"


class Side:
    """One side of a prompt, inputs or targets: its parts, and the tables of its slots."""

    def __init__(
        self,
        name: str,
        parts: tuple[Part, ...],
        source: CatalogSource,
        vocabulary: seqio.Vocabulary,
        length: int | None,
    ):
        catalog = source.catalog()
        self.parts, self._source, self._vocabulary = parts, source, vocabulary
        self._num_items = len(catalog)
        words = {part: tokenise([part], vocabulary) for part in parts if isinstance(part, str)}
        self._words = {part: table.values.astype(np.int32) for part, table in words.items()}
        words_cost = sum(len(self._words[part]) for part in parts if isinstance(part, str))
        # Tokens for slots, after the words and EOS; None where no length is set.
        self.room = None if length is None else length - words_cost - 1
        self._max_tokens = self._max_item_tokens(name)
        self._tables = {
            slot: slot_table(slot, source, vocabulary, self._max_tokens)
            for slot in parts
            if not isinstance(slot, str)
        }

    def _max_item_tokens(self, name: str) -> int | None:
        """Room for one item with its text, if all that the slots need is to fit."""
        if self.room is None:
            return None
        room, shares = self.room, 0
        for slot in self.parts:
            if isinstance(slot, Items) and _is_id_list(slot):
                # The items come first; the other rows are no candidates.
                whole = slot_table(slot, self._source, self._vocabulary, None)
                longest = whole.lengths[: len(self._source.catalog())].max()
                offered = {"candidates": self._source.info().candidates, "pair": 2}
                room -= int(longest) * offered.get(slot.field, 1)
            elif isinstance(slot, User):
                users = slot_table(slot, self._source, self._vocabulary, None)
                room -= int(users.lengths.max(initial=0))
            elif isinstance(slot, (Items, Varied)):
                shares += 2 if slot.field == "pair" else 1
        if room < shares:
            raise UserError(
                f"Feature '{name}' is too short: got {self.room} tokens after the wording, "
                f"expected at least {self.room - room + shares}; "
                f"raise TASK_FEATURE_LENGTHS['{name}']"
            )
        return room // shares if shares else room

    def _masked_row(self, slot: Items) -> int:
        """The row of the mask in the slot's table; that of its empty text comes after it."""
        return len(self._tables[slot]) - 2

    @functools.lru_cache(maxsize=1 << 16)  # noqa: B019 (writers are kept as long)
    def row_text(self, slot: Slot, row: int) -> str:
        """What the slot's table has the tokens of in that row."""
        if isinstance(slot, Choice):
            return slot.answers[row]
        if isinstance(slot, User):
            return slot.form.format(number=row + 1)
        if isinstance(slot, Items) and row >= self._masked_row(slot):
            return (slot.mask, slot.empty)[row - self._masked_row(slot)]
        number, row = divmod(row, self._num_items)
        catalog = self._source.catalog()
        return item_text(catalog, self._vocabulary, slot.forms[number], row, self._max_tokens)

    def rows(self, slot: Slot, batch: Batch) -> tf.RaggedTensor:
        """The rows of the slot's table that each example calls for, int32 [B, n]."""
        rows = batch[slot.field]
        if isinstance(slot, Varied):
            rows = batch[slot.variant] * self._num_items + rows
        if not isinstance(rows, tf.RaggedTensor):
            rows = of_columns(rows)
        if not isinstance(slot, Items):
            return rows
        rows = self._marked(slot, rows, batch)
        if slot.masked:
            masked = batch[slot.masked].values
            rows = rows.with_values(tf.where(masked, self._masked_row(slot), rows.values))
        if slot.where:
            kept = batch[slot.where]
            rows = of_lengths(rows.values[kept.values], row_sums(kept))
        if slot.last_form:
            places = tf.range(tf.size(rows.values, tf.int64)) + 1
            is_last = places == rows_of(rows, limits_of(rows))
            rows = rows.with_values(tf.where(is_last, rows.values + self._num_items, rows.values))
        if slot.empty:
            is_empty = tf.cast(lengths_of(rows) == 0, tf.int64)
            text = tf.fill([tf.reduce_sum(is_empty)], self._masked_row(slot) + 1)
            rows = join([rows, of_lengths(text, is_empty)])
        return rows

    def _marked(self, slot: Items, rows: tf.RaggedTensor, batch: Batch) -> tf.RaggedTensor:
        """The rows of the items in the forms that `slot.mark` calls for."""
        if slot.mark is None:
            return rows
        mark = batch[slot.mark].values
        unmarked = len(slot.forms) - len(slot.marks) - 1
        forms = tf.where(mark > 0, mark + unmarked, 0)
        return rows.with_values(rows.values + forms * self._num_items)

    def tokens(self, batch: Batch) -> tf.RaggedTensor:
        """The tokens of each example, with EOS, int32 [B, L]."""
        pieces = [
            tf.constant(self._words[part], tf.int32)
            if isinstance(part, str)
            else self._tables[part].gather(self.rows(part, batch))
            for part in self.parts
        ]
        if all(isinstance(part, str) for part in self.parts):
            # A piece that says how many examples there are.
            splits = tf.zeros([num_examples(batch) + 1], tf.int64)
            pieces.append(of_splits(tf.zeros([0], tf.int32), splits))
        return join([*pieces, tf.constant([self._vocabulary.eos_id])])

    def fixed_costs(self, batch: Batch) -> tf.Tensor:
        """Tokens of the slots whose items are never dropped, int64 [B]."""
        costs = tf.zeros([num_examples(batch)], tf.int64)
        for slot in self.parts:
            if isinstance(slot, str):
                continue
            table = self._tables[slot]
            if isinstance(slot, Items) and slot.field == ELASTIC:
                costs += int(table.lengths[-1]) if slot.empty else 0
            else:
                rows = self.rows(slot, batch)
                costs += row_sums(rows.with_values(table.costs(rows.values)))
        return costs

    def elastic_costs(self, batch: Batch) -> tf.RaggedTensor:
        """Tokens that each item of the history takes at most, int64 [B, h]."""
        costs = tf.zeros_like(batch[ELASTIC].values, tf.int64)
        for slot in self.parts:
            if isinstance(slot, Items) and slot.field == ELASTIC:
                costs += self.item_costs(slot, batch).values
        return batch[ELASTIC].with_values(costs)

    def item_costs(self, slot: Items, batch: Batch) -> tf.RaggedTensor:
        """Tokens that the slot takes at most for each item of its field, int64 [B, h]."""
        table, items = self._tables[slot], batch[slot.field]
        costs = table.costs(self._marked(slot, items, batch).values)
        if slot.masked:
            costs = tf.maximum(costs, int(table.lengths[self._masked_row(slot)]))
        if slot.where and slot.where in batch:
            costs = tf.where(batch[slot.where].values, costs, 0)
        return items.with_values(costs)

    def texts(self, batch: Batch) -> list[str]:
        """What `tokens` writes, as text, of an eager batch."""
        texts: list[list[str]] = [[] for _ in range(int(num_examples(batch)))]
        for part in self.parts:
            if isinstance(part, str):
                rows = [[part]] * len(texts)
            else:
                rows = [
                    [self.row_text(part, row) for row in rows]
                    for rows in self.rows(part, batch).to_list()
                ]
            for words, more in zip(texts, rows):
                words += more
        return [" ".join(filter(None, words)) for words in texts]


def _is_id_list(slot: Items) -> bool:
    return "{title}" not in slot.form and "{description}" not in slot.form
