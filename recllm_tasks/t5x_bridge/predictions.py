"""T5X's predictions as recommendations, one JSON line per user."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks import tasks
from recllm_tasks.engine.inference import ranked_answers, target_of
from recllm_tasks.models.beam_search import DEAD


def write_recommendations(
    path: str,
    inferences: tuple[Sequence[Any], Mapping[str, Any]],
    task_ds: tf.data.Dataset,
    mode: str,
    vocabulary: seqio.Vocabulary,
    *,
    mixture: str,
) -> None:
    """T5X's `write_fn`: the lines of `recllm infer`, without `history`.

    T5X pads the examples that it passes, so the length of a history is unknown.

    Args:
      path: file to write.
      inferences: beams int [n][K][T], the best one last, and their log-probabilities [n][K] under
        "scores".
      task_ds: the examples, in the same order.
      mode: the mode of T5X's `infer`; must be 'predict_with_aux'.
      vocabulary: the targets' vocabulary.
      mixture: the task or mixture, for its catalog.
    """
    if mode != "predict_with_aux":
        raise ValueError(
            f"infer.mode for '{path}': got {mode!r}, expected 'predict_with_aux'; bind it"
        )
    catalog = tasks.source_of(tasks.get(mixture)).catalog()
    beams, scores = inferences[0], inferences[1]["scores"]
    with tf.io.gfile.GFile(path, "w") as f:
        for i, example in enumerate(task_ds.as_numpy_iterator()):
            answers = [
                (vocabulary.decode([int(token) for token in tokens]), float(score))
                for tokens, score in zip(reversed(beams[i]), reversed(scores[i]))
                if score > DEAD and np.any(tokens)
            ]
            line = {
                "user": example["user"].decode(),
                "ranked": ranked_answers(catalog, answers),
                **target_of(catalog, example),
            }
            f.write(json.dumps(line, ensure_ascii=False) + "\n")
