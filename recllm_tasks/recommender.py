"""Recommendations from Python, for histories that are in no dataset.

from recllm_tasks.recommender import Recommender

recommender = Recommender.from_run("/tmp/run", data_dir="~/recllm_data")
recommender.recommend([["I17", "I4"], ["Fargo (1996)"]], k=10)
"""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf

import recllm_tasks.mixtures  # noqa: F401 (registers the tasks)
from recllm_tasks import tasks
from recllm_tasks.data.item_lookup import ItemLookup
from recllm_tasks.engine import decoding, saved_run
from recllm_tasks.errors import UserError, check_whole
from recllm_tasks.models.beam_search import DEAD


class Recommendation(NamedTuple):
    """One item and how probable it is as the user's next one, of all texts the model can write."""

    short_id: str
    item: str
    title: str
    log_prob: float
    probability: float


class Recommender:
    """A trained run that answers histories with items, with the prompt of its retrieval task.

    The first call compiles, and so does the first of each length bucket (decoding.BUCKETS) and of
    a lone history; later calls do not. One Recommender serves one thread at a time.
    """

    def __init__(
        self,
        saved: saved_run.SavedRun,
        *,
        num_beams: int = 20,
        batch_size: int = 32,
        exclude_history: bool = False,
    ):
        """Args:
        saved: what saved_run.load found; its vocabulary is still in force.
        num_beams: width of the beam, and the most items a history gets. Paper §4.1: 20.
        batch_size: histories decoded together.
        exclude_history: never recommend what a history holds; the paper allows it.
        """
        check_whole("num_beams", num_beams, 1)
        check_whole("batch_size", batch_size, 1)
        task = tasks.get(f"{saved.run.dataset}_retrieval")
        source = tasks.source_of(task)
        saved.run.check_dataset(source.dataset_name, source.info().fingerprint)
        self.catalog = source.catalog()
        self.lookup = ItemLookup(self.catalog)
        self._num_beams = num_beams
        self._params = saved.params
        self._decoder = decoding.TaskDecoder(
            task,
            saved.network,
            saved.mesh,
            num_beams=min(num_beams, len(self.catalog)),
            batch_size=batch_size,
            max_steps=saved.run.lengths["targets"],
            exclude_history=exclude_history,
        )
        self._inputs = _prompt_function(task, saved.run.lengths, source.info().window)

    @classmethod
    def from_run(
        cls,
        model_dir: str,
        *,
        data_dir: str | None = None,
        checkpoint: str | None = None,
        num_beams: int = 20,
        batch_size: int = 32,
        exclude_history: bool = False,
    ) -> "Recommender":
        """The recommender of a run's folder.

        Args:
          model_dir: the run's folder.
          data_dir: folder of prepared datasets, from now on that of all tasks; None is the one in
            force, see prompts/source.py.
          checkpoint: see saved_run.load.
          num_beams: width of the beam, and the most items a history gets.
          batch_size: histories decoded together.
          exclude_history: never recommend what a history holds.

        Raises:
          UserError: no run there, or its dataset is not where the data folder says, or is another.
        """
        if data_dir:
            seqio.set_tfds_data_dir_override(os.path.expanduser(data_dir))
        saved = saved_run.load(os.path.expanduser(model_dir), checkpoint=checkpoint)
        return cls(
            saved, num_beams=num_beams, batch_size=batch_size, exclude_history=exclude_history
        )

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int = 10
    ) -> list[list[Recommendation]]:
        """The `k` most probable next items of each history, best first.

        Args:
          histories: each a list of items, oldest first: short ids, raw ids or titles (see
            ItemLookup). The model sees the last 20 of them (the dataset's window), as in
            training.
          k: at most num_beams. Histories get fewer where the catalog has fewer.

        Raises:
          UserError: a history is empty, or holds an unknown item or one item twice; or `k`.
        """
        if isinstance(histories, str):
            raise UserError(
                f"Histories: got the text {histories!r}, expected a list of lists of items"
            )
        rows = [self.lookup.rows(h, f"history {i}") for i, h in enumerate(histories, 1)]
        return self.recommend_rows(rows, k)

    def recommend_rows(
        self, histories: Sequence[Sequence[int]], k: int = 10
    ) -> list[list[Recommendation]]:
        """As `recommend`, for histories of catalog rows."""
        if not 1 <= k <= self._num_beams:
            raise UserError(
                f"Number of items k: got {k}, expected 1 to {self._num_beams}; raise num_beams "
                "of the recommender"
            )
        if not len(histories):
            return []
        examples = [
            {"inputs": self._inputs(rows), "exclude": np.asarray(rows), "target": -1}
            for rows in histories
        ]
        beams = self._decoder.decode(self._params, examples)
        return [
            [
                self._recommendation(int(row), float(log_prob))
                for row, log_prob in zip(rows[:k], log_probs)
                if log_prob > DEAD
            ]
            for rows, log_probs in zip(beams.rows_BxK, beams.log_probs_BxK)
        ]

    def _recommendation(self, row: int, log_prob: float) -> Recommendation:
        # Short ids are all different, so the decoder's answers are the rows of the catalog.
        names = self.catalog.names(row)
        return Recommendation(**names, log_prob=log_prob, probability=math.exp(log_prob))


def _prompt_function(task: seqio.Task, lengths: dict[str, int], window: int) -> Any:
    """A function from catalog rows to the task's `inputs`, int32 [L], written as in training.

    It is traced here, once: the wording and the vocabulary are those of now.
    """
    writer = tasks.prompt_of(task).writer(lengths, task.output_features)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def write(history):
        # The answer is not known, and `inputs` do not show it: any item stands for it.
        example = {"history": history[-window:], "target": tf.constant(0)}
        return writer.write(writer.fit(example))["inputs"]

    traced = write.get_concrete_function()
    return lambda rows: traced(tf.constant(np.asarray(rows, np.int32))).numpy()
