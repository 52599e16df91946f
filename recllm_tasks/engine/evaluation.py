"""Metrics of a model on a split, by SeqIO's evaluator and the tasks' own metric functions.

Memory: SeqIO's evaluator holds the examples of every task (all features, about 3 kB each at 512
tokens). It also holds the beams of all tasks (num_beams times a target's tokens each) until it has
computed the metrics, twice while it converts them to arrays. Beyond that, we hold one chunk.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import seqio

from recllm_tasks import __version__, progress, tasks
from recllm_tasks.engine import prior_choice, saved_run, user_rows
from recllm_tasks.engine.beam_cache import BeamCache
from recllm_tasks.engine.decoding import Example, TaskDecoder, check_selection
from recllm_tasks.errors import UserError
from recllm_tasks.models.beam_search import Beams
from recllm_tasks.models.network import Transformer
from recllm_tasks.prompts.batches import Batch, map_batches, unbatch
from recllm_tasks.prompts.vocabulary import DatasetVocabulary
from recllm_tasks.runs import memory, per_user
from recllm_tasks.runs.decoding import VALIDATION, Decoding
from recllm_tasks.runs.results import Results, by_target, name_of

# SeqIO's seed for evaluation data; our tasks' evaluation does not depend on it.
_SEED = 0

# Examples are decoded and cached in chunks of this many batches, sorted by length within a chunk.
# Smaller chunks mean more padding; larger ones lose more work when the process is killed.
BATCHES_IN_CHUNK = 16

Metrics = dict[str, dict[str, float]]


class Evaluation:
    """Everything that an evaluation needs except the parameters; made once, used at every step."""

    def __init__(
        self,
        to_measure: Sequence[seqio.Task],
        split: str,
        network: Transformer,
        mesh: jax.sharding.Mesh,
        lengths: Mapping[str, int],
        decoding: Decoding,
        *,
        num_examples: int | None = None,
        cache: BeamCache | None = None,
    ):
        """Args:
        to_measure: tasks, registered or not; those without metrics or the split are skipped.
        split: `validation` or `test`.
        network: the model whose parameters `run` gets.
        mesh: devices.
        lengths: of `inputs` and `targets`, in tokens.
        decoding: the settings of decoding.
        num_examples: only the first examples of each task; None is all.
        cache: keeps beams until the evaluation ends; None keeps none.
        """
        check_selection(split, num_examples)
        self._evaluator = _evaluator(to_measure, split, lengths, num_examples)
        if not self._evaluator.eval_tasks:
            raise UserError(
                f"Nothing to measure in '{', '.join(task.name for task in to_measure)}': got no "
                f"task with metrics and a {split} split, expected retrieval, ranking or rating "
                "among the tasks; name another task or mixture"
            )
        self._cache = cache
        self._chunk_size = BATCHES_IN_CHUNK * decoding.batch_size
        self._tasks = {task.name: task for task in self._evaluator.eval_tasks}
        self._decoders = {
            name: TaskDecoder(task, network, mesh, decoding, lengths["targets"])
            for name, task in self._tasks.items()
        }
        self.seconds: dict[str, float] = {}

    @property
    def tasks(self) -> list[str]:
        return list(self._decoders)

    def use_prior_weight(self, weight: float) -> None:
        """Replaces the weight of the decoding, which must have a prior."""
        for decoder in self._decoders.values():
            decoder.prior_weight = weight

    def num_examples(self, task: str) -> int:
        dataset = self._evaluator.cached_task_datasets[task]
        return int(dataset.reduce(np.int64(0), lambda num, _: num + 1))

    def run(
        self,
        params: Any,
        step: int,
        keep: Callable[[str, pa.RecordBatch], None] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Metrics:
        """Metrics by task, fractions in [0, 1]; stores each task's decoding time in `seconds`.

        Args:
          params: the network's parameters.
          step: the parameters' step, for logs.
          keep: called with the name and the user_rows.rows of each task that has them.
          check: called after each batch; may raise to end the evaluation.
        """
        names = {id(ds): name for name, ds in self._evaluator.cached_model_datasets.items()}

        def beams(dataset):
            name = names[id(dataset)]
            found = self._decode(name, params, check)
            if keep:
                examples = self._evaluator.cached_task_datasets[name]
                rows = user_rows.rows(self._tasks[name], examples, found)
                if rows is not None:
                    keep(name, rows)
            return found

        def predict(dataset):
            # Metric functions get T5X's order: the best beam comes last.
            return list(enumerate(beams(dataset).tokens_BxKxT[:, ::-1]))

        def predict_with_aux(dataset):
            found = beams(dataset)
            scores = list(np.asarray(found.log_probs_BxK[:, ::-1]))
            return list(enumerate(found.tokens_BxKxT[:, ::-1])), {"scores": scores}

        kinds = seqio.metrics.ModelOutputType
        with contextlib.ExitStack() as stack:
            for task in self._evaluator.eval_tasks:
                vocabulary = task.output_features["targets"].vocabulary
                if isinstance(vocabulary, DatasetVocabulary):
                    stack.enter_context(vocabulary.opened())
            measured, _ = self._evaluator.evaluate(
                compute_metrics=True,
                step=step,
                model_fns={kinds.PREDICTION: predict, kinds.PREDICTION_WITH_AUX: predict_with_aux},
            )
        return {
            task: {key: float(value) for key, value in values.items()}
            for task, values in measured.result().items()
        }

    def _decode(self, task: str, params: Any, check: Callable[[], None]) -> Beams:
        parts, self.seconds[task] = [], 0.0
        with progress.work(f"decode {task}", self.num_examples(task)) as work:

            def advance(examples: int) -> None:
                work.advance(examples)
                check()

            for number, examples in enumerate(self._examples(task)):
                found = self._cache and self._cache.load(task, number, examples)
                if found:
                    beams, seconds = found
                    work.advance(len(examples))
                else:
                    start = time.monotonic()
                    beams = self._decoders[task].decode(params, examples, advance)
                    seconds = time.monotonic() - start
                    if self._cache:
                        self._cache.save(task, number, examples, beams, seconds)
                parts.append(beams)
                self.seconds[task] += seconds
        return Beams(*(np.concatenate(part) for part in zip(*parts)))

    def _examples(self, task: str) -> Iterator[Sequence[Example]]:
        """Chunks of the task's examples in order, with the features that are hashed or decoded."""
        dataset = self._evaluator.cached_task_datasets[task]
        self._decoders[task].check(dataset.element_spec)
        # Targets show whether a task has changed: see BeamCache.
        kept = {*self._decoders[task].features, "targets"}
        dataset = dataset.map(lambda example: {name: example[name] for name in sorted(kept)})
        examples = dataset.as_numpy_iterator()
        while chunk := list(itertools.islice(examples, self._chunk_size)):
            yield chunk


def _slim(task: seqio.Task) -> seqio.Task:
    """A copy whose examples have only what decoding, our metrics and our rows read.

    SeqIO passes over all examples four times. Tasks with other metrics keep all features.
    """
    *steps, last = task.preprocessors or [None]
    others = [metric for metric in task.metric_objs if not isinstance(metric, tasks.AnswerAuc)]
    is_ours = all(isinstance(metric, tasks.RankedItems) for metric in task.metric_fns)
    if last is not unbatch or not is_ours or len(others) > len(task.metric_fns):
        return task

    @map_batches
    def keep(batch: Batch) -> Batch:
        return {name: value for name, value in batch.items() if name in _READ}

    return task.replace(preprocessors=[*steps, keep, last])


_READ = frozenset({"inputs", "beginning", "candidates", *user_rows.NEEDED})


def _evaluator(
    to_measure: Sequence[seqio.Task],
    split: str,
    lengths: Mapping[str, int],
    num_examples: int | None,
) -> seqio.Evaluator:
    # SeqIO's evaluator takes a registered name, and the tasks of a run are not registered.
    name = f"recllm_evaluation_{id(to_measure)}"
    mixture = seqio.Mixture(name, [_slim(task) for task in to_measure], default_rate=1.0)
    seqio.MixtureRegistry.add_provider(name, mixture)
    try:
        return seqio.Evaluator(
            name,
            seqio.EncDecFeatureConverter(pack=False),
            eval_split=split,
            seed=_SEED,
            sequence_length=dict(lengths),
            num_examples=num_examples,
            async_compute_metrics=False,
        )
    finally:
        seqio.MixtureRegistry.remove(name)


def evaluate(
    *,
    model_dir: str,
    mixture: str | None = None,
    split: str = "test",
    decoding: Decoding = Decoding(),
    num_examples: int | None = None,
    network: Transformer | None = None,
    checkpoint: str | None = None,
    model_parallel: int = 1,
    record: Callable[[Results], Results] | None = None,
) -> Results:
    """Measures a trained run and writes its per-user results.

    Beams are cached in the run's folder until the end: a killed evaluation resumes when it is
    called again with the same settings.

    Args:
      model_dir: the run's folder.
      mixture: a task or mixture; None is what the run was trained on.
      split: `validation` or `test`.
      decoding: the settings of decoding.
      num_examples: only the first examples of each task; None is all.
      network: None is the run's own.
      checkpoint: see saved_run.load.
      model_parallel: see saved_run.load.
      record: saves the results, and returns them as saved; only then are the cached beams deleted.

    Returns:
      The results; `decode_seconds` includes earlier calls that were killed, `seconds` does not.
    """
    start = time.monotonic()
    memory.reset_peak()
    saved = saved_run.load(
        model_dir, network=network, checkpoint=checkpoint, model_parallel=model_parallel
    )
    mixture = mixture or saved.run.mixture
    to_measure = saved.tasks(mixture)
    source = tasks.source_of(tasks.get(mixture))
    info = source.info()
    saved.run.check_dataset(info.dataset, info.fingerprint, info.records_digest)
    decoding = decoding.resolved(info.keeps_repeats)
    decoding, chosen_by = choose_prior(model_dir, saved, to_measure, decoding)
    settings = {
        "version": __version__,
        "run": dataclasses.asdict(saved.run),
        "network": repr(saved.network.config),
        "fingerprint": info.fingerprint,
        **dataclasses.asdict(decoding),
        "mixture": mixture,
        "num_examples": num_examples,
    }
    cache = BeamCache.of(model_dir, split, saved.step, settings, saved.params)
    evaluation = Evaluation(
        to_measure,
        split,
        saved.network,
        saved.mesh,
        saved.run.lengths,
        decoding,
        num_examples=num_examples,
        cache=cache,
    )
    facts = {
        "dataset": source.dataset_name,
        "fingerprint": info.fingerprint,
        "split_fingerprint": info.split_fingerprint,
        "ids": info.ids,
        "protocol": info.protocol,
        "seen": decoding.seen,
        "model": saved.run.model,
        "mixture": saved.run.mixture,
        "step": saved.step,
        "seed": saved.run.seed,
        "split": split,
    }
    files = {}

    def keep(task: str, rows: pa.RecordBatch) -> None:
        path = per_user.path_of(model_dir, name_of(split, decoding), task)
        per_user.write(path, [rows], {**facts, "task": task})
        files[task] = str(path.relative_to(model_dir))

    measured = evaluation.run(saved.params, saved.step, keep)
    results = Results(
        **facts,
        records_digest=info.records_digest,
        ties=info.ties,
        version=__version__,
        initial_step=saved.run.initial_step,
        decoding=decoding,
        settings=chosen_by,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(saved.params)),
        num_examples={task: evaluation.num_examples(task) for task in evaluation.tasks},
        metrics=measured,
        by_target=by_target(model_dir, files),
        per_user=files,
        decode_seconds=evaluation.seconds,
        peak_memory_bytes=memory.peak_bytes(),
        seconds=time.monotonic() - start,
    )
    results = record(results) if record else results
    cache.remove()
    return results


def choose_prior(
    model_dir: str,
    saved: saved_run.SavedRun,
    to_measure: Sequence[seqio.Task],
    decoding: Decoding,
) -> tuple[Decoding, dict[str, Any]]:
    """The decoding with its prior's weight, chosen on all of validation if it asks for that.

    A weight that was chosen before for the checkpoint and the same decoding is used again.

    Returns:
      The decoding, and what the weight was chosen by, for the results.
    """
    if decoding.prior_weight != VALIDATION:
        return decoding, {}
    name = prior_choice.task_to_choose_on(to_measure)
    evaluation = None

    def measure(weight: float) -> float:
        nonlocal evaluation
        if evaluation is None:
            evaluation = Evaluation(
                [task for task in to_measure if task.name == name],
                "validation",
                saved.network,
                saved.mesh,
                saved.run.lengths,
                dataclasses.replace(decoding, prior_weight=weight),
            )
        evaluation.use_prior_weight(weight)
        return evaluation.run(saved.params, saved.step)[name][prior_choice.METRIC]

    choice = prior_choice.choose(model_dir, prior_choice.begin(saved, name, decoding), measure)
    decoding = dataclasses.replace(decoding, prior_weight=choice.weight)
    return decoding, {"prior": {"task": name, f"validation_{choice.metric}": choice.measured}}
