"""Whether an example reveals an interaction that its split must not know."""

import re

import numpy as np
import seqio

from recllm_tasks.audit import id_readers
from recllm_tasks.audit.check import Check, Offender
from recllm_tasks.audit.examples import Batch, Ids
from recllm_tasks.audit.records import Records, is_in
from recllm_tasks.audit.title_reader import ALL_TEXTS, TitleReader
from recllm_tasks.prompts.token_table import write_item


class Confirmation:
    """Confirms that an id found in tokens is really an id, and not part of a title."""

    def __init__(self, records: Records, task: seqio.Task):
        self._catalog = records.catalog
        self._vocabulary = task.output_features["inputs"].vocabulary
        self._writes_numbers = id_readers.writes_numbers(task)

    def holds(self, batch: Batch, example: int, row: int) -> bool:
        """False if the id of `row` is only text of another item in the example."""
        sides = (batch.inputs[example], batch.targets[example])
        if self._writes_numbers:  # such examples contain no text of items
            return id_readers.contains_number(self._vocabulary, sides, row)
        written = re.compile(rf"(?<![A-Za-z0-9]){self._catalog.short_id[row]}(?![0-9])")
        shown = {
            int(shown)
            for ids in (batch.in_inputs, batch.in_targets)
            for shown in ids.row[ids.example == example]
        }
        texts = (write_item(self._catalog, ALL_TEXTS, shown_row) for shown_row in shown)
        if any(written.search(text) for text in texts):
            return False
        return batch.corrupted or any(
            written.search(self._vocabulary.decode(side.tolist())) for side in sides
        )


class HeldOut:
    """No example of a task contains an item that its user interacts with later.

    An item that is only offered as a negative is not an interaction. A held-out item may be drawn
    as a negative: leaving it out would tell the model which items are held out. Where an item is
    repeated, an example may hold it as often as the part of the record that it shows.
    """

    def __init__(self, records: Records, task: seqio.Task, split: str):
        self._records, self._task, self._split = records, task, split
        self._confirmation = Confirmation(records, task)
        self._titles = TitleReader(records, task.output_features["inputs"].vocabulary, split)
        self._offender: Offender | None = None
        self._examples = self._tokens = self._ids = self._negatives = 0

    def add(self, batch: Batch) -> None:
        self._examples += len(batch)
        self._tokens += len(batch.inputs.values) + len(batch.targets.values)
        self._ids += len(batch.in_inputs.row) + len(batch.in_targets.row)
        in_targets = self._times(batch, batch.in_targets)
        in_inputs = self._times(batch, batch.in_inputs)
        for example, row in {**in_inputs, **in_targets}:
            offered = int((batch.offered[example] == row).sum())
            # What is offered stands in the inputs.
            negatives = min(in_inputs.get((example, row), 0), offered)
            shown = in_inputs.get((example, row), 0) - negatives + in_targets.get((example, row), 0)
            user, window = int(batch.user[example]), int(batch.window[example])
            if shown <= self._records.times_known(self._split, user, window, row):
                self._negatives += negatives
            elif self._offender is None and self._confirmation.holds(batch, example, row):
                self._offender = self._offender_of(batch, example, row)
        if self._offender is None:
            self._offender = (
                self._withheld_item(batch) or self._pair_without_user(batch) or self._title(batch)
            )

    def _times(self, batch: Batch, ids: Ids) -> dict[tuple[int, int], int]:
        """How often every held-out item is in the tokens, by (example, row)."""
        user = batch.user[ids.example]
        pairs = self._records.pair(user, ids.row)
        held_out = is_in(pairs, self._records.own_later(self._split)) & (user >= 0)
        found = np.stack([ids.example[held_out], ids.row[held_out]], axis=1)
        pairs, times = np.unique(found, axis=0, return_counts=True)
        return {(int(e), int(r)): int(n) for (e, r), n in zip(pairs, times)}

    def _withheld_item(self, batch: Batch) -> Offender | None:
        """A train example that contains an item that is kept out of training."""
        withheld = self._records.withheld
        if self._split != "train" or withheld is None:
            return None
        for ids in (batch.in_inputs, batch.in_targets):
            for at in np.flatnonzero(withheld[ids.row]):
                example, row = int(ids.example[at]), int(ids.row[at])
                if self._confirmation.holds(batch, example, row):
                    number = int(batch.user[example])
                    return Offender(
                        f"an item that is withheld from training, in an example of {batch.task}",
                        value=self._records.catalog.short_id[row],
                        user=self._records.user(number) if number >= 0 else None,
                        split=self._split,
                    )
        return None

    def _title(self, batch: Batch) -> Offender | None:
        """The first example that reveals a held-out item by its title alone."""
        found = next(self._titles.read(batch), None)
        return found and self._offender_of(batch, *found, what="title of the user's")

    def _offender_of(self, batch: Batch, example: int, row: int, what: str = "user's") -> Offender:
        number = int(batch.user[example])
        position = int(np.flatnonzero(self._records.whole[number] == row)[-1])
        is_validation = position < self._records.splits["validation"].items.lengths[number]
        split = "validation" if is_validation else "test"
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

    def _pair_without_user(self, batch: Batch) -> Offender | None:
        """An example without a known user that contains two items: any user may have both."""
        unknown = np.flatnonzero(batch.user < 0)
        if not len(unknown):
            return None
        example = np.concatenate([batch.in_inputs.example, batch.in_targets.example])
        row = np.concatenate([batch.in_inputs.row, batch.in_targets.row])
        pairs = np.unique(np.stack([example, row], axis=1)[batch.user[example] < 0], axis=0)
        for second in np.flatnonzero(np.diff(pairs[:, 0]) == 0) + 1:
            number, other, item = *pairs[second], pairs[second - 1, 1]
            # The example has two items only if neither id is text of the other item.
            if all(self._confirmation.holds(batch, int(number), int(r)) for r in (other, item)):
                short_id = self._records.catalog.short_id
                return Offender(
                    f"with {short_id[other]} in an example of {batch.task} that names no user",
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
    """No example reveals its answer: the inputs contain a target item only if they offer it.

    Or if the user had it several times: they may contain the other times.
    Examples with corrupted spans are skipped: their targets are part of the input text.
    """

    def __init__(self, records: Records):
        self._records = records
        self._offender: Offender | None = None
        self._examples = self._answers = 0

    def add(self, batch: Batch, confirmation: Confirmation) -> None:
        if batch.corrupted:
            return
        self._examples += len(batch)
        self._answers += len(batch.in_targets.row)
        size = len(self._records.catalog)
        answers = np.unique(batch.in_targets.example * size + batch.in_targets.row)
        shown, times = np.unique(
            batch.in_inputs.example * size + batch.in_inputs.row, return_counts=True
        )
        is_answer = np.isin(shown, answers)
        ids = Ids(shown[is_answer] // size, shown[is_answer] % size)
        too_often = times[is_answer] > batch.times_offered(ids)
        for example, row, excess in zip(
            ids.example[too_often],
            ids.row[too_often],
            (times[is_answer] - batch.times_offered(ids))[too_often],
        ):
            if self._offender is not None or excess <= self._other_times(batch, example, row):
                continue
            if confirmation.holds(batch, int(example), int(row)):
                number = int(batch.user[example])
                self._offender = Offender(
                    f"the answer is in the input of {batch.task} (seed {batch.seed})",
                    value=self._records.catalog.short_id[row],
                    user=self._records.user(number) if number >= 0 else None,
                    split=batch.split,
                    position=int(batch.window[example]) if batch.window[example] >= 0 else None,
                )

    def _other_times(self, batch: Batch, example: int, row: int) -> int:
        """How often the user had the answer beside the times that are answers."""
        user, window = int(batch.user[example]), int(batch.window[example])
        if user < 0:
            return 0
        answers = batch.in_targets.row[batch.in_targets.example == example]
        known = self._records.times_known(batch.split, user, window, row)
        return max(0, known - int((answers == row).sum()))

    def check(self) -> Check:
        figures = {"examples": self._examples, "answers": self._answers}
        claim = "no answer in its own input, except among the items to choose from"
        return Check("own_target", claim, figures, self._offender)
