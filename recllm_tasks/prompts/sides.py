"""One side of a prompt, inputs or targets: its parts, and the token tables of its slots.

Everything is there twice: for one example as TensorFlow sees it, and for a batch of examples
(batch_steps.py), where thousands of rows are gathered and joined in one NumPy operation.
"""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.errors import UserError
from recllm_tasks.prompts.batch_steps import Batch
from recllm_tasks.prompts.ragged import Ragged, join
from recllm_tasks.prompts.slot_tables import slot_table
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import MASKED_ITEM, Choice, Items, Part, Slot, User, Varied
from recllm_tasks.prompts.token_table import item_text, tokenise

# The feature whose items may be dropped. Its slots in one template share the room that is left.
ELASTIC = "history"

Example = Mapping[str, tf.Tensor]


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
        self._parts, self._source, self._vocabulary = parts, source, vocabulary
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
        for slot in self._parts:
            if isinstance(slot, Items) and _is_id_list(slot):
                # The items come first; the other rows are no candidates.
                whole = slot_table(slot, self._source, self._vocabulary, None)
                longest = whole.lengths[: len(self._source.catalog())].max()
                is_offer = slot.field == "candidates"
                room -= int(longest) * (self._source.info().candidates if is_offer else 1)
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
        """The row of `MASKED_ITEM` in the slot's table; that of its empty text comes after it."""
        return len(self._tables[slot]) - 2

    def row_text(self, slot: Slot, row: int) -> str:
        """What the slot's table has the tokens of in that row."""
        if isinstance(slot, Choice):
            return slot.answers[row]
        if isinstance(slot, User):
            return slot.form.format(number=row + 1)
        if isinstance(slot, Items) and row >= self._masked_row(slot):
            return (MASKED_ITEM, slot.empty)[row - self._masked_row(slot)]
        number, row = divmod(row, self._num_items)
        forms = slot.forms if isinstance(slot, Varied) else (slot.form, slot.last_form)
        catalog = self._source.catalog()
        return item_text(catalog, self._vocabulary, forms[number], row, self._max_tokens)

    def _item_rows(self, slot: Items, example: Example) -> tf.Tensor:
        """Rows of the slot's table that the example calls for."""
        rows = tf.reshape(example[slot.field], [-1])
        if slot.masked:
            rows = tf.where(example[slot.masked], self._masked_row(slot), rows)
        if slot.where:
            rows = tf.boolean_mask(rows, example[slot.where])
        if slot.last_form:
            last = tf.range(tf.size(rows)) == tf.size(rows) - 1
            rows = tf.where(last, rows + self._num_items, rows)
        if slot.empty:
            is_empty = tf.cast(tf.size(rows) == 0, tf.int32)
            rows = tf.concat([rows, tf.repeat(self._masked_row(slot) + 1, is_empty)], axis=0)
        return rows

    def rows(self, slot: Slot, example: Example) -> tf.Tensor:
        if isinstance(slot, (Choice, User)):
            return tf.reshape(example[slot.field], [1])
        if isinstance(slot, Varied):
            row = example[slot.variant] * self._num_items + example[slot.field]
            return tf.reshape(row, [1])
        return self._item_rows(slot, example)

    def tokens(self, example: Example) -> tf.Tensor:
        """int32 [n], without EOS."""
        pieces = [tf.zeros([0], tf.int32)]
        for part in self._parts:
            if isinstance(part, str):
                pieces.append(tf.constant(self._words[part]))
            else:
                rows = self.rows(part, example)
                pieces.append(self._tables[part].tokens(rows))
        return tf.concat(pieces, axis=0)

    def text(self, example: Mapping[str, np.ndarray]) -> str:
        words = []
        for part in self._parts:
            if isinstance(part, str):
                words.append(part)
            else:
                rows = self.rows(part, example).numpy()
                words += [self.row_text(part, int(row)) for row in rows]
        return " ".join(word for word in words if word)

    def fixed_cost(self, example: Example) -> tf.Tensor:
        """Tokens of the slots whose items are never dropped."""
        cost = tf.constant(0)
        for slot in self._parts:
            if isinstance(slot, str):
                continue
            if isinstance(slot, Items) and slot.field == ELASTIC:
                cost += int(self._tables[slot].lengths[-1]) if slot.empty else 0
            else:
                rows = self.rows(slot, example)
                cost += tf.reduce_sum(self._tables[slot].costs(rows))
        return cost

    def elastic_costs(self, example: Example) -> tf.Tensor:
        """Tokens that each item of the history takes at most, int32 [h]."""
        costs = tf.zeros_like(example[ELASTIC])
        for slot in self._parts:
            if isinstance(slot, Items) and slot.field == ELASTIC:
                costs += self.item_costs(slot, example)
        return costs

    def item_costs(self, slot: Items, example: Example) -> tf.Tensor:
        table = self._tables[slot]
        costs = table.costs(example[slot.field])
        if slot.masked:
            costs = tf.maximum(costs, table.lengths[self._masked_row(slot)])
        if slot.where and slot.where in example:
            costs = tf.where(example[slot.where], costs, 0)
        return costs

    def batch_parts(self, batch: Batch) -> list[Ragged | np.ndarray]:
        """The tokens of every part, one row an example; an array where all rows are the same."""
        parts: list[Ragged | np.ndarray] = []
        for part in self._parts:
            if isinstance(part, str):
                parts.append(self._words[part])
            else:
                parts.append(self._tables[part].gather(self.batch_rows(part, batch)))
        return parts

    def batch_fixed_cost(self, batch: Batch) -> np.ndarray:
        """`fixed_cost` of each example, int64 [B]."""
        cost = np.zeros(len(batch[ELASTIC]), np.int64)
        for slot in self._parts:
            if isinstance(slot, str):
                continue
            lengths = self._tables[slot].lengths
            if isinstance(slot, Items) and slot.field == ELASTIC:
                cost += int(lengths[-1]) if slot.empty else 0
            else:
                rows = self.batch_rows(slot, batch)
                cost += rows.with_values(lengths[rows.values]).sums()
        return cost

    def batch_elastic_costs(self, batch: Batch) -> np.ndarray:
        """`elastic_costs` of all items of all histories, int64 [sum of h]."""
        costs = np.zeros(len(batch[ELASTIC].values), np.int64)
        for slot in self._parts:
            if isinstance(slot, Items) and slot.field == ELASTIC:
                costs += self.batch_item_costs(slot, batch)
        return costs

    def batch_item_costs(self, slot: Items, batch: Batch) -> np.ndarray:
        """`item_costs` of all items of all histories, [sum of h]."""
        lengths = self._tables[slot].lengths
        costs = lengths[batch[slot.field].values]
        if slot.masked:
            costs = np.maximum(costs, lengths[self._masked_row(slot)])
        if slot.where and slot.where in batch:
            costs = np.where(batch[slot.where].values, costs, 0)
        return costs

    def batch_rows(self, slot: Slot, batch: Batch) -> Ragged:
        """The rows of the slot's table that each example calls for."""
        if isinstance(slot, Varied):
            rows = batch[slot.variant].astype(np.int64) * self._num_items + batch[slot.field]
            return Ragged.of_array(rows[:, np.newaxis])
        rows = batch[slot.field]
        if not isinstance(rows, Ragged):
            rows = Ragged.of_array(rows.reshape(len(rows), -1))
        if isinstance(slot, (Choice, User)):
            return rows
        if slot.masked:
            masked = batch[slot.masked].values
            rows = rows.with_values(np.where(masked, self._masked_row(slot), rows.values))
        if slot.where:
            rows = rows.where(batch[slot.where].values)
        if slot.last_form:
            values = rows.values.copy()
            values[rows.splits[1:][rows.lengths > 0] - 1] += self._num_items
            rows = rows.with_values(values)
        if slot.empty:
            is_empty = (rows.lengths == 0).astype(np.int64)
            empty = np.full(is_empty.sum(), self._masked_row(slot) + 1)
            rows = join([rows, Ragged.of_lengths(empty, is_empty)], len(rows))
        return rows


def _is_id_list(slot: Items) -> bool:
    return "{title}" not in slot.form and "{description}" not in slot.form
