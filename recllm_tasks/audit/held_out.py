"""Whether an example shows a pair of a user and an item that its split must not know."""

import re

import numpy as np
import seqio

from recllm_tasks.audit.examples import Batch, Ids
from recllm_tasks.audit.records import Records
from recllm_tasks.audit.titles import ALL_TEXTS, TitleReader
from recllm_tasks.audit.verdict import Check, Offender
from recllm_tasks.data.sequences import HELD_OUT
from recllm_tasks.prompts.token_table import write_item


class Confirmation:
    """Whether ids that were found in tokens are what they look like, and not part of a title."""

    def __init__(self, records: Records, task: seqio.Task):
        self._catalog = records.catalog
        self._vocabulary = task.output_features["inputs"].vocabulary

    def holds(self, batch: Batch, example: int, row: int) -> bool:
        """False if the text of an item in the example holds the id of `row`."""
        written = re.compile(rf"(?<![A-Za-z0-9]){self._catalog.short_id[row]}(?![0-9])")
        shown = {
            int(shown)
            for ids in (batch.in_inputs, batch.in_targets)
            for shown in ids.row[ids.example == example]
        }
        texts = (write_item(self._catalog, ALL_TEXTS, shown_row) for shown_row in shown)
        if any(written.search(text) for text in texts):
            return False
        sides = (batch.inputs[example], batch.targets[example])
        return batch.corrupted or any(
            written.search(self._vocabulary.decode(side.tolist())) for side in sides
        )


class HeldOut:
    """No example of a task holds an item that its user has interacted with later.

    An item that is merely offered, as a negative, is no interaction. A held-out item may be drawn
    as one: to leave it out would tell the model which items are held out.
    """

    def __init__(self, records: Records, task: seqio.Task, split: str):
        self._records, self._task, self._split = records, task, split
        self._confirmation = Confirmation(records, task)
        self._held_out = records.splits["test"].items.last_columns(max(1, HELD_OUT[split]))
        self._titles = TitleReader(records, task.output_features["inputs"].vocabulary, split)
        self._offender: Offender | None = None
        self._examples = self._tokens = self._ids = self._negatives = 0

    def see(self, batch: Batch) -> None:
        self._examples += len(batch)
        self._tokens += len(batch.inputs.values) + len(batch.targets.values)
        self._ids += len(batch.in_inputs.row) + len(batch.in_targets.row)
        for ids, may_be_offered in ((batch.in_inputs, True), (batch.in_targets, False)):
            for example, row, times in self._found(batch, ids):
                offered = int((batch.offered[example] == row).sum()) if may_be_offered else 0
                if times <= offered:
                    self._negatives += times
                elif self._offender is None and self._confirmation.holds(batch, example, row):
                    self._offender = self._tell(batch, example, row)
        if self._offender is None:
            self._offender = self._nobody(batch) or self._title(batch)

    def _found(self, batch: Batch, ids: Ids):
        """(example, row, how often) of every held-out item in the tokens."""
        user = batch.user[ids.example]
        held_out = (self._held_out[user] == ids.row[:, np.newaxis]).any(axis=1) & (user >= 0)
        found = np.stack([ids.example[held_out], ids.row[held_out]], axis=1)
        pairs, times = np.unique(found, axis=0, return_counts=True)
        yield from ((int(e), int(r), int(n)) for (e, r), n in zip(pairs, times))

    def _title(self, batch: Batch) -> Offender | None:
        """The first example that tells a held-out item by its title alone."""
        told = next(self._titles.read(batch), None)
        return told and self._tell(batch, *told, what="title of the user's")

    def _tell(self, batch: Batch, example: int, row: int, what: str = "user's") -> Offender:
        number = int(batch.user[example])
        items = self._records.splits["test"].items[number]
        position = int(np.flatnonzero(items == row)[-1])
        split = "test" if position == len(items) - 1 else "validation"
        window = batch.window[example]
        where = f" of the window at {window}" if window >= 0 else ""
        return Offender(
            f"the {what} {split} item, in a {self._split} example{where} of {batch.task} "
            f"(seed {batch.seed})",
            value=self._records.catalog.short_id[row],
            user=self._records.user(number),
            split=self._split,
            position=position,
        )

    def _nobody(self, batch: Batch) -> Offender | None:
        """An example of no known user that shows two items: they could be anyone's."""
        unknown = np.flatnonzero(batch.user < 0)
        if not len(unknown):
            return None
        example = np.concatenate([batch.in_inputs.example, batch.in_targets.example])
        row = np.concatenate([batch.in_inputs.row, batch.in_targets.row])
        pairs = np.unique(np.stack([example, row], axis=1)[batch.user[example] < 0], axis=0)
        for second in np.flatnonzero(np.diff(pairs[:, 0]) == 0) + 1:
            number, other, item = *pairs[second], pairs[second - 1, 1]
            # What is left of two ids is more than one item only if neither is the other's text.
            if all(self._confirmation.holds(batch, int(number), int(r)) for r in (other, item)):
                short_id = self._records.catalog.short_id
                return Offender(
                    f"beside {short_id[other]} in an example of {batch.task} that names no user",
                    value=short_id[item],
                    split=self._split,
                )
        return None

    def check(self) -> Check:
        figures = {"examples": self._examples, "tokens": self._tokens, "ids": self._ids}
        if self._negatives:
            figures["held-out as negatives"] = self._negatives
        claim = f"no held-out pair in {self._task.name}, {self._split}"
        return Check(f"held_out:{self._task.name}:{self._split}", claim, figures, self._offender)


class OwnTarget:
    """No example tells its answer: an item in the targets is in the inputs only if it is offered.

    Where spans are corrupted the targets are a part of the text, and there is nothing to tell.
    """

    def __init__(self, records: Records):
        self._records = records
        self._offender: Offender | None = None
        self._examples = self._answers = 0

    def see(self, batch: Batch, confirmation: Confirmation) -> None:
        if batch.corrupted:
            return
        self._examples += len(batch)
        self._answers += len(batch.in_targets.row)
        size = len(self._records.catalog)
        answers = np.unique(batch.in_targets.example * size + batch.in_targets.row)
        shown, times = np.unique(
            batch.in_inputs.example * size + batch.in_inputs.row, return_counts=True
        )
        told = np.isin(shown, answers)
        ids = Ids(shown[told] // size, shown[told] % size)
        too_often = times[told] > batch.times_offered(ids)
        for example, row in zip(ids.example[too_often], ids.row[too_often]):
            if self._offender is None and confirmation.holds(batch, int(example), int(row)):
                number = int(batch.user[example])
                self._offender = Offender(
                    f"the answer is in the input of {batch.task} (seed {batch.seed})",
                    value=self._records.catalog.short_id[row],
                    user=self._records.user(number) if number >= 0 else None,
                    split=batch.split,
                    position=int(batch.window[example]) if batch.window[example] >= 0 else None,
                )

    def check(self) -> Check:
        figures = {"examples": self._examples, "answers": self._answers}
        claim = "no answer in its own input, unless it is one of several to choose from"
        return Check("own_target", claim, figures, self._offender)
