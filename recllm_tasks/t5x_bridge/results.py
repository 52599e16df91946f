"""The results of T5X's evaluation, in the files that `recllm eval` writes."""

import json
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf
from t5x import gin_utils

from recllm_tasks import __version__, progress, tasks
from recllm_tasks.engine import user_rows
from recllm_tasks.engine.decoding import check_selection
from recllm_tasks.errors import UserError
from recllm_tasks.models.beam_search import Beams
from recllm_tasks.prompts.vocabulary import DatasetVocabulary
from recllm_tasks.runs import per_user, run_folder
from recllm_tasks.runs.decoding import Decoding
from recllm_tasks.runs.results import Results, by_target, name_of
from recllm_tasks.t5x_bridge.finetuning import step_of

# In a T5X run's folder: what was trained on what, for the results of its checkpoints.
RUN = "t5x_run.json"
_RUN_KEYS = ("mixture", "model", "seed", "initial_step")


def summarize_run(
    model_dir: str,
    summary_writer: Any,
    step: int,
    *,
    mixture: str,
    model: str,
    seed: int,
    checkpoint: str | None,
) -> None:
    """T5X's `summarize_config_fn`, which also writes RUN, and reports settings that changed.

    Args:
      model_dir: folder of the run.
      summary_writer: T5X's.
      step: of the run.
      mixture: what is trained on.
      model: a name for tables.
      seed: RANDOM_SEED.
      checkpoint: what training starts from.
    """
    settings = os.path.join(model_dir, run_folder.SETTINGS)
    before = tf.io.gfile.GFile(settings).read() if tf.io.gfile.exists(settings) else None
    gin_utils.summarize_gin_config(model_dir, summary_writer, step)
    if jax.process_index() == 0:
        if before is not None:
            for change in run_folder.changed_settings(before, tf.io.gfile.GFile(settings).read()):
                progress.console.print(f"other settings than before: {change}", markup=False)
        run = (mixture, model, seed, step_of(checkpoint))
        with tf.io.gfile.GFile(os.path.join(model_dir, RUN), "w") as f:
            f.write(json.dumps(dict(zip(_RUN_KEYS, run)), indent=2) + "\n")


class ResultsEvaluator(seqio.Evaluator):
    """SeqIO's evaluator, which also writes results and per-user results.

    T5X computes metrics in the first process only, and that process alone writes.
    """

    def __init__(
        self,
        mixture_or_task_name: str,
        *args,
        output_dir: str,
        model: str,
        checkpoint: str,
        initial_checkpoint: str | None,
        decoding: Decoding,
        eval_split: str = "validation",
        **kwargs,
    ):
        """See SeqIO's, and:

        output_dir: folder of the results, EVAL_OUTPUT_DIR.
        model: a name for tables.
        checkpoint: folder of the evaluated checkpoint.
        initial_checkpoint: what it was fine-tuned from, if its run does not say.
        decoding: settings of the decoder.

        Raises:
          UserError: a split that cannot be measured.
        """
        check_selection(eval_split, None)
        super().__init__(mixture_or_task_name, *args, eval_split=eval_split, **kwargs)
        self._mixture, self._split = mixture_or_task_name, eval_split
        self._output_dir, self._model, self._decoding = output_dir, model, decoding
        self._checkpoint, self._initial_checkpoint = checkpoint, initial_checkpoint

    def evaluate(self, *, compute_metrics: bool, step: int | None = None, **model_fns):
        start = time.monotonic()
        metrics, outputs = super().evaluate(compute_metrics=compute_metrics, step=step, **model_fns)
        if compute_metrics:
            measured = {
                task: {key: float(value) for key, value in values.items()}
                for task, values in metrics.result().items()
            }
            self._write(measured, outputs, step, time.monotonic() - start)
        return metrics, outputs

    def _write(
        self, metrics: Mapping[str, Mapping[str, float]], outputs, step: int | None, seconds: float
    ) -> None:
        source = tasks.source_of(tasks.get(self._mixture))
        info = source.info()
        decoding = self._decoding.resolved(info.keeps_repeats)
        facts = {
            "dataset": source.dataset_name,
            "fingerprint": info.fingerprint,
            "split_fingerprint": info.split_fingerprint,
            "ids": info.ids,
            "protocol": info.protocol,
            "seen": decoding.seen,
            "step": step,
            "split": self._split,
            **self._run(),
        }
        # Written here and then copied: the output folder may be in a bucket.
        with tempfile.TemporaryDirectory() as folder:
            files = {}
            for task in self.eval_tasks:
                rows = self._rows(task, outputs[task.name])
                if rows is not None:
                    path = per_user.path_of(folder, name_of(self._split, decoding), task.name)
                    per_user.write(path, [rows], {**facts, "task": task.name})
                    files[task.name] = str(path.relative_to(folder))
            Results(
                **facts,
                records_digest=info.records_digest,
                ties=info.ties,
                version=__version__,
                decoding=decoding,
                num_examples={
                    task.name: int(self.cached_task_datasets[task.name].cardinality())
                    for task in self.eval_tasks
                },
                metrics=metrics,
                by_target=by_target(folder, files),
                per_user=files,
                seconds=seconds,
            ).save(folder)
            _copy(pathlib.Path(folder), self._output_dir)

    def _run(self) -> dict[str, Any]:
        """What the checkpoint was trained on; the evaluated mixture, if its run does not say."""
        path = os.path.join(os.path.dirname(self._checkpoint.rstrip("/")), RUN)
        if not tf.io.gfile.exists(path):
            initial_step = step_of(self._initial_checkpoint)
            return {"mixture": self._mixture, "model": self._model, "initial_step": initial_step}
        try:
            with tf.io.gfile.GFile(path) as f:
                content = json.load(f)
            if not isinstance(content, dict):
                raise ValueError(f"a {type(content).__name__}")
            return {key: content[key] for key in _RUN_KEYS}
        except (ValueError, KeyError) as error:
            raise UserError(
                f"Damaged file '{path}': got {error}, expected what T5X's training wrote; delete it"
            ) from error

    def _rows(self, task: seqio.Task, outputs: Mapping):
        """Per-user results of a task, from the beams that its metrics were computed from."""
        kinds = seqio.metrics.ModelOutputType
        if kinds.PREDICTION_WITH_AUX in outputs:
            tokens, aux = outputs[kinds.PREDICTION_WITH_AUX]
            scores_BxK = np.array(aux["scores"])
        elif kinds.PREDICTION in outputs:
            tokens, scores_BxK = outputs[kinds.PREDICTION], None
        else:
            return None
        tokens_BxKxT = np.array(tokens)
        if scores_BxK is None:
            scores_BxK = np.zeros(tokens_BxKxT.shape[:2], np.float32)
        # T5X's best beam comes last, and it does not return rows.
        rows_BxK = np.full(tokens_BxKxT.shape[:2], -1, np.int32)
        beams = Beams(tokens_BxKxT[:, ::-1], scores_BxK[:, ::-1], rows_BxK)
        vocabulary = task.output_features["targets"].vocabulary
        examples = list(self.cached_task_datasets[task.name].as_numpy_iterator())
        if not isinstance(vocabulary, DatasetVocabulary):
            return user_rows.rows(task, examples, beams)
        with vocabulary.opened():
            return user_rows.rows(task, examples, beams)


def _copy(folder: pathlib.Path, target: str) -> None:
    """Copies files, results.json last: each appears only when it is complete."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.parent == pathlib.Path(), path)):
        name = os.path.join(target, path)
        tf.io.gfile.makedirs(os.path.dirname(name))
        tf.io.gfile.copy(str(folder / path), f"{name}.tmp", overwrite=True)
        tf.io.gfile.rename(f"{name}.tmp", name, overwrite=True)
