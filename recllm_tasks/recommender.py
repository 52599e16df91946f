"""Recommendations from Python, for any history.

from recllm_tasks.recommender import Recommender

recommender = Recommender.from_run("/tmp/run", data_dir="~/recllm_data")
recommender.recommend([["I17", "I4"], ["Fargo (1996)"]], k=10)

The dataset may be a custom one; its tasks need not be registered before.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks import __version__, mixtures, tasks
from recllm_tasks.data.item_list import allowed_items
from recllm_tasks.data.item_lookup import ItemLookup
from recllm_tasks.engine import prior_choice, saved_run
from recllm_tasks.engine.beam_cache import digest_of
from recllm_tasks.engine.decoding import Shapes, TaskDecoder
from recllm_tasks.engine.item_prior import Reasons
from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write, write_json
from recllm_tasks.models.beam_search import DEAD
from recllm_tasks.models.exported_search import PLATFORMS
from recllm_tasks.models.item_mask import ItemMask
from recllm_tasks.prompts.source import CatalogSource, SequenceSource
from recllm_tasks.prompts.templates import Wording
from recllm_tasks.runs.decoding import LEAVE_OUT, Decoding

# Where a recommendation is from, in `Recommendation.source` and in every output.
MODEL, POPULAR = "model", "popular"

# What becomes of names that fit no item.
SKIP, ERROR = ON_UNKNOWN = ("skip", "error")


class Recommendation(NamedTuple):
    """An item, and its probability as the user's next one among all texts the model can write.

    With a prior, items are in the order of log_prob + λ log p(item-to-item); both fields are the
    model's alone. A history without items gets the most popular ones, with `source` "popular" and
    None for both: the model was not asked.
    """

    short_id: str
    item: str
    title: str
    log_prob: float | None
    probability: float | None
    source: str = MODEL


class Recommendations(list[Recommendation]):
    """The items for one history, best first: a list, with what was left out of the history.

    Attributes:
      skipped: names in the history that fit no item.
    """

    def __init__(self, found: Iterable[Recommendation] = (), skipped: Sequence[str] = ()):
        super().__init__(found)
        self.skipped: tuple[str, ...] = tuple(skipped)


class Recommender:
    """A trained run that recommends items for histories, with its retrieval task's prompt.

    The first call compiles, as does the first one for each length bucket (decoding.BUCKETS) and for
    a single history; later calls do not. A Recommender serves one thread at a time. Several work
    side by side: each has its own data folder and vocabulary.
    """

    def __init__(
        self,
        saved: saved_run.SavedRun,
        decoding: Decoding = Decoding(),
        *,
        data_dir: str | None = None,
        shapes: Shapes | None = None,
    ):
        """Args:
        saved: the loaded run.
        decoding: the settings of decoding; `num_beams` is also the maximum number of items for a
          history. Answers are always items, ranked by beam search. The prior's weight is a number.
        data_dir: folder of prepared datasets; None is the default one, see prompts/source.py.
        shapes: as in TaskDecoder.
        """
        dataset, lengths = saved.run.dataset, saved.run.lengths
        info = CatalogSource(dataset, data_dir=data_dir).info()
        saved.run.check_dataset(dataset, info.fingerprint, info.records_digest)
        wording = Wording(info.noun, info.verb, info.verb_past)
        mixtures.register_dataset(dataset, wording)
        kind = tasks.retrieval_kind(saved.run.mixture, dataset)
        retrieval = tasks.recommendation_task(dataset, kind, wording, data_dir=data_dir)
        task = tasks.with_vocabulary(seqio.Task(f"{dataset}_{kind}", **retrieval), saved.vocabulary)
        task = tasks.with_added_items(task, saved.added)
        source = tasks.source_of(task)
        assert isinstance(source, SequenceSource)
        self.source = source
        self.catalog = source.catalog()
        self.lookup = ItemLookup(self.catalog, info.keeps_repeats)
        self._num_beams = decoding.num_beams
        self._facts = {
            "dataset": dataset,
            "fingerprint": info.fingerprint,
            **_added(saved),
            "step": saved.step,
            "num_beams": decoding.num_beams,
        }
        self._params = saved.params
        num_beams = min(decoding.num_beams, len(self.catalog))
        self.excludes_history = decoding.resolved(info.keeps_repeats).seen == LEAVE_OUT
        decoding = dataclasses.replace(decoding, num_beams=num_beams, constrained=True)
        self._saved, self._decoding = saved, decoding
        # A call may leave a history's items out or keep them, whatever is the rule without a word.
        either = dataclasses.replace(decoding, seen=LEAVE_OUT)
        self._decoder = TaskDecoder(
            task, saved.network, saved.mesh, either, lengths["targets"], shapes=shapes
        )
        self._prompts = _prompt_function(task, lengths, info.window)
        self._allowed_N = None
        if decoding.allow or decoding.deny:
            self._allowed_N = allowed_items(self.catalog, decoding.allow, decoding.deny)

    @classmethod
    def from_run(
        cls,
        model_dir: str,
        decoding: Decoding = Decoding(),
        *,
        data_dir: str | None = None,
        checkpoint: str | None = None,
        batch_size: int | None = None,
    ) -> "Recommender":
        """The recommender for a run's folder.

        Args:
          model_dir: the run's folder.
          decoding: as in `Recommender`; "validation" is the prior's weight that `recllm eval` chose
            for the same settings.
          data_dir: as in `Recommender`.
          checkpoint: see saved_run.load.
          batch_size: at most so many histories are decoded together, in the few shapes that
            `compile` compiles in advance; None is for large jobs, see TaskDecoder.

        Raises:
          UserError: there is no run, its dataset is not prepared in the data folder or differs, or
            no prior's weight was chosen.
        """
        model_dir = os.path.expanduser(model_dir)
        saved = saved_run.load(model_dir, checkpoint=checkpoint)
        data_dir = data_dir and os.path.expanduser(data_dir)
        dataset = saved.run.dataset
        info = CatalogSource(dataset, data_dir=data_dir).info()
        mixtures.register_dataset(dataset, Wording(info.noun, info.verb, info.verb_past))
        decoding = prior_choice.remembered(
            model_dir,
            saved,
            f"{dataset}_{tasks.retrieval_kind(saved.run.mixture, dataset)}",
            decoding.resolved(info.keeps_repeats),
        )
        shapes = Shapes.for_serving(saved.run.lengths, batch_size) if batch_size else None
        return cls(saved, decoding, data_dir=data_dir, shapes=shapes)

    @property
    def most_items(self) -> int:
        """The largest k."""
        return self._num_beams

    def compile(self) -> Iterator[None]:
        """Prepares for `recommend_rows` with `allowed` and for `reasons`; yields after each part.

        After it, no history compiles anything.
        """
        (prompt,) = self._prompts([[0]])
        yield from self._decoder.compile(self._params, prompt)
        _ = self.reasons
        yield

    def mask(self, allowed_N: np.ndarray) -> ItemMask:
        """The list of the items, by catalog row, where `allowed_N` (bool) is true."""
        return self._decoder.mask(allowed_N)

    def export(self, folder: str) -> None:
        """Writes the search as a program for JAX alone; see `recllm export --help`.

        Raises:
          UserError: the folder is not empty or cannot be written to, or there is a prior.
        """
        path = pathlib.Path(os.path.expanduser(folder))
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(
                f"Output '{folder}': got something there, expected a new or empty folder; choose "
                "another --output"
            )
        history = np.argsort(-self.catalog.train_count, kind="stable")[:3]
        (prompt,) = self._prompts([history.tolist()])
        example = {**prompt, "exclude": history, "target": -1}
        example["keeps_seen"] = not self.excludes_history
        program, arrays, given, beams = self._decoder.export(self._params, example)
        path.mkdir(parents=True, exist_ok=True)
        with atomic_write(path / "search.stablehlo", "wb") as f:
            f.write(program)
        with atomic_write(path / "arrays.npz", "wb") as f:
            np.savez(f, **arrays)
        with atomic_write(path / "example.npz", "wb") as f:
            np.savez(f, **given, **beams)
        with atomic_write(path / "items.jsonl") as f:
            f.writelines(
                json.dumps(self.catalog.names(row)) + "\n" for row in range(len(self.catalog))
            )
        facts = {name: list(array.shape) for name, array in given.items()}
        write_json(path / "export.json", {"shapes": facts, "platforms": PLATFORMS, **self._facts})

    @functools.cached_property
    def reasons(self) -> Reasons:
        """Why an item may follow a history, by what items have in common; fitted on first use."""
        return Reasons(self.source)

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int = 10, *, on_unknown: str = SKIP
    ) -> list[Recommendations]:
        """The `k` most probable next items of each history, best first.

        Args:
          histories: each a list of items, oldest first: short ids, raw ids or titles (see
            ItemLookup). The model sees the last 20 of them (the dataset's window), as in
            training. Of an item that is there twice the first place counts, unless the dataset
            keeps repeats. A history without items gets the most popular ones, labelled as such.
          k: at most num_beams. If the catalog is smaller, histories get fewer.
          on_unknown: "skip" leaves out names that fit no item, lists them in
            `Recommendations.skipped`, and warns once a call; "error" raises.

        Raises:
          UserError: a name fits several items, or none with "error"; `histories` are no lists of
            text; or `k` is wrong.
        """
        if isinstance(histories, str):
            raise UserError(
                f"Histories: got the text {histories!r}, expected a list of lists of items; "
                f"write [[{histories!r}]]"
            )
        if not isinstance(histories, Sequence | np.ndarray):
            raise UserError(
                f"Histories: got {type(histories).__name__} {histories!r:.40}, expected a list of "
                'lists of items such as [["I17", "I4"]]; correct the call'
            )
        if on_unknown not in ON_UNKNOWN:
            raise UserError(
                f"on_unknown: got {on_unknown!r}, expected {' or '.join(map(repr, ON_UNKNOWN))}; "
                "correct it"
            )
        rows, skipped = [], []
        for number, history in enumerate(histories, 1):
            found = self.lookup.find(history, f"history {number}")
            if found.ambiguous or (found.unknown and on_unknown == ERROR):
                self.lookup.rows(history, f"history {number}")  # raises for the first of them
            rows.append(found.rows)
            skipped.append(found.unknown)
        if count := sum(map(len, skipped)):
            example = next(names[0] for names in skipped if names)
            warnings.warn(
                f"{count:,} names in {sum(map(bool, skipped)):,} of {len(rows):,} histories fit no "
                f"item and were skipped, the first {example!r}; see Recommendations.skipped, or "
                'give on_unknown="error"',
                stacklevel=2,
            )
        found = self.recommend_rows(rows, k)
        return [Recommendations(ranked, names) for ranked, names in zip(found, skipped)]

    def recommend_rows(
        self,
        histories: Sequence[Sequence[int]],
        k: int = 10,
        *,
        allowed: Sequence[ItemMask] | None = None,
        exclude_history: Sequence[bool] | None = None,
    ) -> list[list[Recommendation]]:
        """`recommend` for histories of catalog rows.

        Args:
          histories: each a list of rows, oldest first.
          k: as in `recommend`.
          allowed: the items that each history may get, from `mask`; None is what the settings
            allow. A history without items gets popular ones of those: see `popular`.
          exclude_history: whether each history's own items are left out; None is as in training.
        """
        if not 1 <= k <= self._num_beams:
            raise UserError(
                f"Number of items k: got {k}, expected 1 to {self._num_beams}; raise "
                "Decoding.num_beams"
            )
        found = [self.popular(k) if not len(rows) else [] for rows in histories]
        asked = [number for number, rows in enumerate(histories) if len(rows)]
        if not asked:
            return found
        known = [histories[number] for number in asked]
        excludes = exclude_history or [self.excludes_history] * len(histories)
        examples = [
            {
                **prompt,
                "exclude": np.asarray(rows),
                "target": -1,
                "keeps_seen": not excludes[number],
            }
            for prompt, rows, number in zip(self._prompts(known), known, asked)
        ]
        masks = [allowed[number] for number in asked] if allowed is not None else None
        beams = self._decoder.decode(self._params, examples, allowed=masks)
        for number, rows, log_probs in zip(asked, beams.rows_BxK, beams.log_probs_BxK):
            found[number] = [
                self._recommendation(int(row), float(log_prob))
                for row, log_prob in zip(rows[:k], log_probs)
                if log_prob > DEAD
            ]
        return found

    def identity(self) -> dict[str, Any]:
        """All that answers depend on besides the histories; can be written as JSON."""
        info = self.source.info()
        return {
            "version": __version__,
            "mixture": self._saved.run.mixture,
            "step": self._saved.step,
            "parameters": digest_of(self._params),
            "network": repr(self._saved.network.config),
            "lengths": dict(self._saved.run.lengths),
            "fingerprint": info.fingerprint,
            **_added(self._saved),
            "records": info.records_digest,
            **dataclasses.asdict(self._decoding),
            "allowed": None
            if self._allowed_N is None
            else hashlib.sha256(self._allowed_N.tobytes()).hexdigest(),
        }

    def popular(self, k: int = 10, allowed_N: np.ndarray | None = None) -> list[Recommendation]:
        """The `k` items with the most interactions in train, what a history without items gets.

        `allowed_N` (bool, by catalog row) restricts them; by default, the settings do.
        """
        rows = self._by_popularity
        allowed_N = self._allowed_N if allowed_N is None else allowed_N
        if allowed_N is not None:
            rows = rows[allowed_N[rows]]
        return [self._recommendation(row, None) for row in rows[:k].tolist()]

    @functools.cached_property
    def _by_popularity(self) -> np.ndarray:
        return np.argsort(-self.catalog.train_count, kind="stable")

    def _recommendation(self, row: int, log_prob: float | None) -> Recommendation:
        """The item of a row; without a probability it is there because it is popular."""
        # Short ids are distinct, so the decoder's answers are the rows of the catalog.
        names = self.catalog.names(row)
        if log_prob is None:
            return Recommendation(**names, log_prob=None, probability=None, source=POPULAR)
        return Recommendation(**names, log_prob=log_prob, probability=math.exp(log_prob))


def _added(saved: saved_run.SavedRun) -> dict[str, str]:
    """The digest of the items that were added, as what answers depend on."""
    return {"added_items": saved.added.digest} if saved.added else {}


def _prompt_function(task: seqio.Task, lengths: Mapping[str, int], window: int) -> Any:
    """A traced function from histories of catalog rows to what the model is given, as in training.

    For each history, its `inputs` and, if the task has one, its `beginning`.
    """
    prompt = tasks.prompt_of(task)
    assert prompt is not None
    writer = prompt.writer(lengths, task.output_features)
    given = ("inputs", "beginning") if prompt.template.beginning else ("inputs",)

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.int32)])
    def write(histories):
        written = writer.question({"history": histories})
        return {name: written[name] for name in given}

    traced = write.get_concrete_function()

    def prompts(histories: Sequence[Sequence[int]]) -> list[dict[str, np.ndarray]]:
        seen = [list(rows)[-window:] for rows in histories]
        written = traced(tf.ragged.constant(seen, tf.int32, row_splits_dtype=tf.int64))
        parts = {
            name: np.split(rows.values.numpy(), rows.row_splits.numpy()[1:-1])
            for name, rows in written.items()
        }
        return [dict(zip(parts, row)) for row in zip(*parts.values())]

    return prompts
