"""Per-user results of a model, from the beams that its metrics are computed from.

Letters: U examples of a task, K beams, best first, T decode steps.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import seqio

from recllm_tasks import metrics, tasks
from recllm_tasks.engine.decoding import Example
from recllm_tasks.models.beam_search import Beams
from recllm_tasks.prompts.source import CatalogSource, SequenceSource
from recllm_tasks.prompts.templates import Choice
from recllm_tasks.prompts.token_table import write_item
from recllm_tasks.runs import per_user

_NEEDED = ("user", "target", "exclude", "targets")


def rows(task: seqio.Task, examples: Sequence[Example], beams: Beams) -> pa.RecordBatch | None:
    """The rows of a task whose target is one item of the catalog, or one of two answers.

    Every beam is decoded, as SeqIO does for the metrics.

    Args:
      task: the measured task.
      examples: U of them.
      beams: of each example. Decoding is fast within `DatasetVocabulary.opened`.

    Returns:
      None for other targets, for examples without a user, and for tasks with a postprocessor.
    """
    prompt = tasks.prompt_of(task)
    if prompt is None or prompt.template.answer is None:
        return None
    slot = prompt.template.answer
    if not examples or not set(_NEEDED) <= set(examples[0]) or task.postprocessor:
        return None
    if isinstance(slot, Choice) and len(slot.answers) != 2:
        return None
    vocabulary = task.output_features["targets"].vocabulary
    targets = [vocabulary.decode(example["targets"].tolist()) for example in examples]
    # Worst first, as the metric functions expect them.
    texts = [[vocabulary.decode(beam) for beam in found[::-1]] for found in beams.tokens_BxKxT]
    # `exclude` holds all items of the record, the target last.
    histories = [example["exclude"][:-1] for example in examples]
    users = (
        [bytes(example["user"]).decode() for example in examples],
        np.array([example["target"] for example in examples], np.int32),
        np.array([len(history) for history in histories], np.int32),
    )
    groups = None
    if isinstance(prompt.source, SequenceSource):
        groups = prompt.source.co_occurrence().groups(histories, users[1])
    if isinstance(slot, Choice):
        scores = np.asarray(beams.log_probs_BxK[:, ::-1])
        dislike, like = slot.answers
        log_odds = tasks.answer_log_odds(((dislike,), (like,)), texts, scores)
        liked = [target == slot.answers[1] for target in targets]
        return per_user.rated(*users, liked, log_odds.astype(np.float64), groups)
    row_of = _rows_of_texts(prompt.source, slot.form, vocabulary)
    items = [
        [row if text == target.strip() else row_of.get(text, -1) for text in _stripped(found)]
        for found, target, row in zip(texts, targets, users[1].tolist())
    ]
    return per_user.ranked(*users, metrics.ranks_of_targets(targets, texts), items, groups)


def _stripped(beams: Sequence[str]) -> Sequence[str]:
    """Best first, without the white space that the metrics ignore."""
    return [beam.strip() for beam in reversed(beams)]


def _rows_of_texts(
    source: CatalogSource, form: str, vocabulary: seqio.Vocabulary
) -> Mapping[str, int]:
    """Catalog rows by decoded text; the first of several items with the same text."""
    catalog, found = source.catalog(), {}
    for row in range(len(catalog)):
        text = vocabulary.decode(vocabulary.encode(write_item(catalog, form, row)))
        found.setdefault(text.strip(), row)
    found.pop("", None)
    return found
