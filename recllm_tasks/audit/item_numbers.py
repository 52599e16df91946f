"""Items that a task writes as bare numbers, as P5's tasks do: "4110", "item_7391?".

They are read off the text, since a number's pieces are those of any other number. A user's
("user_23"), and a rating ("5.0"), are no items.
"""

import itertools
import re

import numpy as np
import seqio

from recllm_tasks import tasks
from recllm_tasks.prompts import p5
from recllm_tasks.prompts.ragged import Ragged
from recllm_tasks.prompts.templates import Items

# A digit before or after a point belongs to a decimal.
_NUMBER = re.compile(r"(?<![\w.])(?:item_)?([0-9]{1,12})(?!\w|\.[0-9])")


def are_written(task: seqio.Task) -> bool:
    """Whether the prompt of a task writes items as numbers."""
    prompt = tasks.prompt_of(task)
    if prompt is None:
        return False
    slots = (*prompt.template.inputs, *prompt.template.targets)
    return any(isinstance(slot, Items) and p5.NUMBER in slot.form for slot in slots)


class NumberReader:
    """Reads the numbers of one catalog's items, in place of `item_ids.IdReader`."""

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
        return tuple(np.array(found, np.int64).reshape(-1, 2).T)

    def is_corrupted(self, inputs: Ragged) -> bool:
        """No such task moves spans."""
        del inputs
        return False


def holds(vocabulary: seqio.Vocabulary, sides, row: int) -> bool:
    """Whether the text of one of `sides`, arrays of tokens, has the number of a catalog row."""
    texts = vocabulary.tokenizer.DecodeIds([side.tolist() for side in sides])
    return any(int(number) == row + 1 for text in texts for number in _NUMBER.findall(text))
