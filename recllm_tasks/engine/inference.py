"""A model's recommendations in a file, one JSON line per user."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from recllm_tasks import progress, tasks
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.engine import saved_run
from recllm_tasks.engine.decoding import TaskDecoder, check_selection
from recllm_tasks.engine.evaluation import BATCHES_IN_CHUNK, choose_prior
from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write
from recllm_tasks.models.beam_search import DEAD
from recllm_tasks.models.network import Transformer
from recllm_tasks.runs.decoding import Decoding


def infer(
    *,
    model_dir: str,
    output: str,
    task: str | None = None,
    split: str = "test",
    decoding: Decoding = Decoding(),
    num_examples: int | None = None,
    network: Transformer | None = None,
    checkpoint: str | None = None,
    model_parallel: int = 1,
) -> int:
    """Writes the model's answers for every user of a split; returns the number of lines.

    A line holds `user`, `history` and `target` as items (short_id, item, title), and `ranked`: the
    answers, best first, with `log_prob`, the model's, which a prior's order does not follow. An
    answer that is an item has its raw id and title too. Lines of `latest` have no `target`.
    The file is written atomically. Memory: one chunk of examples and their beams.

    Args:
      model_dir: the run's folder.
      output: file to write.
      task: a task; None is the run's retrieval task, see `tasks.retrieval_kind`.
      split: `validation`, `test`, or `latest`: every user as of the last event, with the whole
        sequence as the history.
      decoding: the settings of decoding; answers are always constrained.
      num_examples: only the first users; None is all.
      network: None is the run's own.
      checkpoint: see saved_run.load.
      model_parallel: see saved_run.load.
    """
    check_selection(split, num_examples, measured=False)
    saved = saved_run.load(
        model_dir, network=network, checkpoint=checkpoint, model_parallel=model_parallel
    )
    run = saved.run
    name = task or f"{run.dataset}_{tasks.retrieval_kind(run.mixture, run.dataset)}"
    found, *others = saved.tasks(name)
    if others or tasks.answers(found) is None:
        raise UserError(
            f"Nothing to rank for '{name}': got a mixture or a task with free text as its target, "
            "expected a task whose target is one answer, such as retrieval, ranking or rating; "
            "correct MIXTURE_OR_TASK_NAME"
        )
    source = tasks.source_of(found)
    info = source.info()
    if split not in found.splits:
        raise UserError(
            f"SPLIT of '{name}': got {split!r}, expected one of {', '.join(found.splits)}; correct "
            f"it, or give its SequenceSource splits=(*SPLITS, {split!r})"
        )
    dataset = found.get_dataset(dict(saved.run.lengths), split=split, shuffle=False)
    total = found.num_input_examples(split) or 0
    if num_examples is not None:
        dataset, total = dataset.take(num_examples), min(total, num_examples)
    decoding = dataclasses.replace(decoding, constrained=True).resolved(info.keeps_repeats)
    decoding, _ = choose_prior(model_dir, saved, [found], decoding)
    found = tasks.with_added_items(found, saved.added)
    max_steps = saved.run.lengths["targets"]
    decoder = TaskDecoder(found, saved.network, saved.mesh, decoding, max_steps)
    line = _Line(tasks.source_of(found).catalog(), decoder.answers)
    examples, written = dataset.as_numpy_iterator(), 0
    with atomic_write(output) as f, progress.work(f"infer {name}", total) as work:
        while chunk := list(itertools.islice(examples, BATCHES_IN_CHUNK * decoding.batch_size)):
            beams = decoder.decode(saved.params, chunk, work.advance)
            for example, rows, log_probs in zip(chunk, beams.rows_BxK, beams.log_probs_BxK):
                json.dump(line(example, rows, log_probs), f, ensure_ascii=False)
                f.write("\n")
            written += len(chunk)
    return written


class _Line:
    """Makes the content of a line."""

    def __init__(self, catalog: Catalog, answers: Sequence[str]):
        self._catalog, self._answers = catalog, answers

    def __call__(
        self, example: Mapping[str, Any], rows: np.ndarray, log_probs: np.ndarray
    ) -> dict[str, Any]:
        found = [
            (self._answers[int(row)], float(log_prob))
            for row, log_prob in zip(rows, log_probs)
            if row >= 0 and log_prob > DEAD
        ]
        return {
            "user": example["user"].decode(),
            "history": [self._catalog.names(row) for row in example["history"]],
            "ranked": ranked_answers(self._catalog, found),
            **target_of(self._catalog, example),
        }


def target_of(catalog: Catalog, example: Mapping[str, Any]) -> dict[str, Any]:
    """`target` of a line, or nothing where an example has none."""
    target = int(example["target"])
    return {"target": catalog.names(target)} if target >= 0 else {}


def ranked_answers(catalog: Catalog, answers: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """`ranked` of a line, from (text, log-probability); an answer that is an item has its names."""
    row_of = _rows_of_short_ids(catalog)
    return [
        {
            **({"answer": text} if text not in row_of else catalog.names(row_of[text])),
            "log_prob": round(log_prob, 6),
        }
        for text, log_prob in answers
    ]


@functools.lru_cache(maxsize=1)
def _rows_of_short_ids(catalog: Catalog) -> dict[str, int]:
    return {short_id: row for row, short_id in enumerate(catalog.short_id)}
