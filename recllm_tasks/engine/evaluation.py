"""Metrics of a model on a split, by the tasks' own metric functions and objects.

Memory: the examples of every task (all features, about 3 kB each at 512 tokens), and the beams of
one (num_beams times a target's tokens each).
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
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
    """Everything that an evaluation needs except the parameters; made once, used at every step.

    The metrics are SeqIO's objects, and get what its evaluator gives them, without the evaluator:
    that reads all examples four times, which takes longer than a small model takes to decode them.
    """

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
        decoding.check_unrestricted()
        found = [task for task in to_measure if split in task.splits and task.metric_objs]
        if not found:
            raise UserError(
                f"Nothing to measure in '{', '.join(task.name for task in to_measure)}': got no "
                f"task with metrics and a {split} split, expected retrieval, ranking or rating "
                "among the tasks; name another task or mixture"
            )
        for task in found:
            _check_metrics(task)
        self._cache = cache
        self._chunk_size = BATCHES_IN_CHUNK * decoding.batch_size
        self._tasks = {task.name: task for task in found}
        self._examples = {task.name: _read(task, split, lengths, num_examples) for task in found}
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
        return len(self._examples[task])

    def run(
        self,
        params: Any,
        keep: Callable[[str, pa.RecordBatch], None] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Metrics:
        """Metrics by task, fractions in [0, 1]; stores each task's decoding time in `seconds`.

        Args:
          params: the network's parameters.
          keep: called with the name and the user_rows.rows of each task that has them.
          check: called after each batch; may raise to end the evaluation.
        """
        measured = {}
        with contextlib.ExitStack() as stack:
            for task in self._tasks.values():
                vocabulary = task.output_features["targets"].vocabulary
                if isinstance(vocabulary, DatasetVocabulary):
                    stack.enter_context(vocabulary.opened())
            for name, task in self._tasks.items():
                beams = self._decode(name, params, check)
                if keep:
                    rows = user_rows.rows(task, self._examples[name], beams)
                    if rows is not None:
                        keep(name, rows)
                measured[name] = _measure(task, self._examples[name], beams)
        return measured

    def _decode(self, task: str, params: Any, check: Callable[[], None]) -> Beams:
        decoder, examples = self._decoders[task], self._examples[task]
        parts, self.seconds[task] = [], 0.0
        with progress.work(f"decode {task}", len(examples)) as work:

            def advance(examples: int) -> None:
                work.advance(examples)
                check()

            for number, start in enumerate(range(0, len(examples), self._chunk_size)):
                chunk = examples[start : start + self._chunk_size]
                decoder.check(chunk[0])
                # Targets show whether a task has changed: see BeamCache.
                hashed = {*decoder.features, "targets"}
                kept = [{name: example[name] for name in sorted(hashed)} for example in chunk]
                found = self._cache and self._cache.load(task, number, kept)
                if found:
                    beams, seconds = found
                    work.advance(len(chunk))
                else:
                    begin = time.monotonic()
                    beams = decoder.decode(params, kept, advance)
                    seconds = time.monotonic() - begin
                    if self._cache:
                        self._cache.save(task, number, kept, beams, seconds)
                parts.append(beams)
                self.seconds[task] += seconds
        return Beams(*(np.concatenate(part) for part in zip(*parts)))


def _read(
    task: seqio.Task, split: str, lengths: Mapping[str, int], num_examples: int | None
) -> list[Example]:
    dataset = task.get_dataset(dict(lengths), split=split, shuffle=False, seed=_SEED, num_epochs=1)
    dataset = dataset.take(-1 if num_examples is None else num_examples)
    examples = list(dataset.as_numpy_iterator())
    if not examples:
        raise UserError(
            f"Examples of '{task.name}': got none in the {split} split, expected at least one; "
            "name another task, or prepare a dataset that has some"
        )
    return examples


def _check_metrics(task: seqio.Task) -> None:
    """Raises UserError if a metric needs another output than beams."""
    known = (_KINDS.PREDICTION, _KINDS.PREDICTION_WITH_AUX)
    for metric in task.metric_objs:
        if metric.model_output_type not in known:
            raise UserError(
                f"Metrics of '{task.name}': got one of {metric.model_output_type.name.lower()}s, "
                "expected functions of (targets, predictions) or (targets, predictions, "
                "aux_values), or objects that read those; change the task"
            )


_KINDS = seqio.metrics.ModelOutputType


def _measure(task: seqio.Task, examples: Sequence[Example], beams: Beams) -> dict[str, float]:
    """What SeqIO's evaluator computes of a task's beams."""
    # Metric functions get T5X's order: the best beam comes last.
    tokens_NxKxT = np.asarray(beams.tokens_BxKxT)[:, ::-1]
    scores_NxK = np.asarray(beams.log_probs_BxK)[:, ::-1]
    targets, found = None, {}
    for metric in task.metric_objs:
        is_plain = metric.model_output_type == _KINDS.PREDICTION
        output = tokens_NxKxT if is_plain else (tokens_NxKxT, {"scores": scores_NxK})
        made = metric.from_model_output(examples, output, task.output_features)
        if isinstance(made, seqio.metrics.CollectingMetric):
            values, seen = made.actual_compute(examples, task.output_features, "targets", targets)
            targets = seen["targets"]
        else:
            values = made.compute()
        repeated = sorted(set(found) & set(values))
        if repeated:
            raise UserError(
                f"Metrics of '{task.name}': got '{repeated[0]}' twice, expected each name once; "
                "rename it in one of the task's metrics"
            )
        found |= {name: float(getattr(value, "value", value)) for name, value in values.items()}
    return found


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

    measured = evaluation.run(saved.params, keep)
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
        return evaluation.run(saved.params)[name][prior_choice.METRIC]

    choice = prior_choice.choose(model_dir, prior_choice.begin(saved, name, decoding), measure)
    decoding = dataclasses.replace(decoding, prior_weight=choice.weight)
    return decoding, {"prior": {"task": name, f"validation_{choice.metric}": choice.measured}}
