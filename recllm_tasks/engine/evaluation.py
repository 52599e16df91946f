"""Metrics of a model on a split, through SeqIO's evaluator and the tasks' own metric functions."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import seqio

from recllm_tasks import progress, tasks
from recllm_tasks.engine import decoding, saved_run
from recllm_tasks.errors import UserError
from recllm_tasks.models.network import Transformer

# SeqIO's seed for evaluation data; nothing in our tasks' evaluation depends on it.
_SEED = 0

Metrics = dict[str, dict[str, float]]


class Evaluation:
    """Everything that measuring needs but the parameters, made once and used at every step."""

    def __init__(
        self,
        mixture: str,
        split: str,
        network: Transformer,
        mesh: jax.sharding.Mesh,
        lengths: Mapping[str, int],
        *,
        num_beams: int = 20,
        batch_size: int = 32,
        constrained: bool = True,
        num_examples: int | None = None,
    ):
        """Args:
        mixture: task or mixture; those of its tasks that have metrics are measured.
        split: `validation` or `test`.
        network: of the parameters that `run` is given.
        mesh: devices.
        lengths: of `inputs` and `targets`, in tokens.
        num_beams: paper §4.1: 20.
        batch_size: examples decoded together.
        constrained: beams are items (ours), or any text (the paper's).
        num_examples: the first so many of each task; None is all.
        """
        decoding.check_settings(split, num_beams, batch_size, num_examples)
        tasks.get(mixture)
        self._evaluator = seqio.Evaluator(
            mixture,
            seqio.EncDecFeatureConverter(pack=False),
            eval_split=split,
            seed=_SEED,
            sequence_length=dict(lengths),
            num_examples=num_examples,
            async_compute_metrics=False,
        )
        if not self._evaluator.eval_tasks:
            raise UserError(
                f"Nothing to measure in '{mixture}': got no task with metrics and a {split} split, "
                "expected retrieval, ranking or rating among its tasks"
            )
        self._examples = {
            name: list(dataset.as_numpy_iterator())
            for name, dataset in self._evaluator.cached_task_datasets.items()
        }
        self._decoders = {
            task.name: decoding.TaskDecoder(
                task,
                network,
                mesh,
                num_beams=num_beams,
                batch_size=batch_size,
                max_steps=lengths["targets"],
                constrained=constrained,
            )
            for task in self._evaluator.eval_tasks
        }
        self.seconds: dict[str, float] = {}

    @property
    def tasks(self) -> list[str]:
        return list(self._decoders)

    def num_examples(self, task: str) -> int:
        return len(self._examples[task])

    def run(self, params: Any, step: int) -> Metrics:
        """Metrics by task, fractions in [0, 1]; what decoding took is left in `seconds`."""
        names = {id(ds): name for name, ds in self._evaluator.cached_model_datasets.items()}

        def beams(dataset):
            return self._decode(names[id(dataset)], params)

        def predict(dataset):
            # T5X's order, which SeqIO metric functions see: the best beam comes last.
            return list(enumerate(beams(dataset).tokens_BxKxT[:, ::-1]))

        def predict_with_aux(dataset):
            found = beams(dataset)
            scores = list(np.asarray(found.log_probs_BxK[:, ::-1]))
            return list(enumerate(found.tokens_BxKxT[:, ::-1])), {"scores": scores}

        kinds = seqio.metrics.ModelOutputType
        measured, _ = self._evaluator.evaluate(
            compute_metrics=True,
            step=step,
            model_fns={kinds.PREDICTION: predict, kinds.PREDICTION_WITH_AUX: predict_with_aux},
        )
        return {
            task: {key: float(value) for key, value in values.items()}
            for task, values in measured.result().items()
        }

    def _decode(self, task: str, params: Any):
        examples = self._examples[task]
        start = time.monotonic()
        with progress.work(f"decode {task}", len(examples)) as work:
            found = self._decoders[task].decode(params, examples, work.advance)
        self.seconds[task] = time.monotonic() - start
        return found


def evaluate(
    *,
    model_dir: str,
    mixture: str | None = None,
    split: str = "test",
    num_beams: int = 20,
    batch_size: int = 32,
    constrained: bool = True,
    num_examples: int | None = None,
    network: Transformer | None = None,
    checkpoint: str | None = None,
    model_parallel: int = 1,
) -> dict[str, Any]:
    """Measures a trained run; returns what results.json holds, but for the baselines.

    Args:
      model_dir: the run's folder.
      mixture: a task or mixture; None is what the run was trained on.
      split: `validation` or `test`.
      num_beams: paper §4.1: 20.
      batch_size: examples decoded together.
      constrained: beams are items (ours), or any text (the paper's).
      num_examples: the first so many of each task; None is all.
      network: None is the run's own.
      checkpoint: see saved_run.load.
      model_parallel: see saved_run.load.
    """
    start = time.monotonic()
    saved = saved_run.load(
        model_dir, network=network, checkpoint=checkpoint, model_parallel=model_parallel
    )
    mixture = mixture or saved.run.mixture
    source = tasks.source_of(tasks.get(mixture))
    saved.run.check_dataset(source.dataset_name, source.info().fingerprint)
    evaluation = Evaluation(
        mixture,
        split,
        saved.network,
        saved.mesh,
        saved.run.lengths,
        num_beams=num_beams,
        batch_size=batch_size,
        constrained=constrained,
        num_examples=num_examples,
    )
    measured = evaluation.run(saved.params, saved.step)
    return {
        "dataset": source.dataset_name,
        "fingerprint": source.info().fingerprint,
        "model": saved.run.model,
        "mixture": saved.run.mixture,
        "step": saved.step,
        "seed": saved.run.seed,
        "split": split,
        "constrained": constrained,
        "num_beams": num_beams,
        "num_examples": {task: evaluation.num_examples(task) for task in evaluation.tasks},
        "metrics": measured,
        "decode_seconds": evaluation.seconds,
        "seconds": time.monotonic() - start,
    }
