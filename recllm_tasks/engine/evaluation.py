"""Metrics of a model on a split, through SeqIO's evaluator and the tasks' own metric functions.

Memory: SeqIO's evaluator holds the examples of every task (all features; some 3 kB each at 512
tokens), and the beams of all tasks until it has computed the metrics (num_beams times a target's
tokens each), twice while it turns them into arrays. Beyond that, we hold one chunk.
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
from recllm_tasks.engine import decoding, saved_run, user_rows
from recllm_tasks.engine.finished_chunks import FinishedChunks
from recllm_tasks.errors import UserError
from recllm_tasks.models.beam_search import Beams
from recllm_tasks.models.network import Transformer
from recllm_tasks.prompts.vocabulary import DatasetVocabulary
from recllm_tasks.runs import memory, per_user
from recllm_tasks.runs.decoding import Decoding
from recllm_tasks.runs.results import Results, name_of

# SeqIO's seed for evaluation data; nothing in our tasks' evaluation depends on it.
_SEED = 0

# Examples are decoded, and kept for a later start, in chunks of so many batches. They are sorted by
# length within a chunk only; with fewer batches more would be padding, with more a kill costs more.
BATCHES_IN_CHUNK = 16

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
        exclude_history: bool = False,
        method: str = "beam",
        num_examples: int | None = None,
        chunks: FinishedChunks | None = None,
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
        exclude_history: see decoding.TaskDecoder.
        method: see decoding.TaskDecoder.
        num_examples: the first so many of each task; None is all.
        chunks: where beams are kept until the end, and looked for; None keeps none.
        """
        decoding.check_settings(
            split,
            num_beams,
            batch_size,
            num_examples,
            method,
            constrained=constrained,
            exclude_history=exclude_history,
        )
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
        self._chunks = chunks
        self._chunk_size = BATCHES_IN_CHUNK * batch_size
        self._decoders = {
            task.name: decoding.TaskDecoder(
                task,
                network,
                mesh,
                num_beams=num_beams,
                batch_size=batch_size,
                max_steps=lengths["targets"],
                constrained=constrained,
                exclude_history=exclude_history,
                method=method,
            )
            for task in self._evaluator.eval_tasks
        }
        self.seconds: dict[str, float] = {}

    @property
    def tasks(self) -> list[str]:
        return list(self._decoders)

    def num_examples(self, task: str) -> int:
        return int(self._evaluator.cached_task_datasets[task].cardinality())

    def run(
        self, params: Any, step: int, keep: Callable[[str, pa.RecordBatch], None] | None = None
    ) -> Metrics:
        """Metrics by task, fractions in [0, 1]; what decoding took is left in `seconds`.

        Args:
          params: of the network.
          step: of those, for logs.
          keep: is given each task that has user_rows.rows, and them.
        """
        names = {id(ds): name for name, ds in self._evaluator.cached_model_datasets.items()}

        def beams(dataset):
            name = names[id(dataset)]
            found = self._decode(name, params)
            task = seqio.TaskRegistry.get(name)
            examples = self._evaluator.cached_task_datasets[name]
            rows = user_rows.rows(task, examples, found) if keep else None
            if rows is not None:
                keep(name, rows)
            return found

        def predict(dataset):
            # T5X's order, which SeqIO metric functions see: the best beam comes last.
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

    def _decode(self, task: str, params: Any) -> Beams:
        parts, self.seconds[task] = [], 0.0
        with progress.work(f"decode {task}", self.num_examples(task)) as work:
            for number, examples in enumerate(self._examples(task)):
                found = self._chunks and self._chunks.load(task, number, examples)
                if found:
                    beams, seconds = found
                    work.advance(len(examples))
                else:
                    start = time.monotonic()
                    beams = self._decoders[task].decode(params, examples, work.advance)
                    seconds = time.monotonic() - start
                    if self._chunks:
                        self._chunks.save(task, number, examples, beams, seconds)
                parts.append(beams)
                self.seconds[task] += seconds
        return Beams(*(np.concatenate(part) for part in zip(*parts)))

    def _examples(self, task: str) -> Iterator[Sequence[decoding.Example]]:
        """Chunks of the task's examples, in order, with what decoding reads, and the targets."""
        dataset = self._evaluator.cached_task_datasets[task]
        # The targets tell that a task has changed: see FinishedChunks.
        kept = {*self._decoders[task].features, "targets"}
        dataset = dataset.map(lambda example: {name: example[name] for name in sorted(kept)})
        examples = dataset.as_numpy_iterator()
        while chunk := list(itertools.islice(examples, self._chunk_size)):
            yield chunk


def evaluate(
    *,
    model_dir: str,
    mixture: str | None = None,
    split: str = "test",
    num_beams: int = 20,
    batch_size: int = 32,
    constrained: bool = True,
    exclude_history: bool = False,
    method: str = "beam",
    num_examples: int | None = None,
    network: Transformer | None = None,
    checkpoint: str | None = None,
    model_parallel: int = 1,
    record: Callable[[Results], Results] | None = None,
) -> Results:
    """Measures a trained run and writes its per-user results.

    Beams are kept in the run's folder until the end: a killed evaluation resumes when it is called
    again with the same settings.

    Args:
      model_dir: the run's folder.
      mixture: a task or mixture; None is what the run was trained on.
      split: `validation` or `test`.
      num_beams: paper §4.1: 20.
      batch_size: examples decoded together.
      constrained: beams are items (ours), or any text (the paper's).
      exclude_history: see decoding.TaskDecoder.
      method: see decoding.TaskDecoder.
      num_examples: the first so many of each task; None is all.
      network: None is the run's own.
      checkpoint: see saved_run.load.
      model_parallel: see saved_run.load.
      record: saves the results, and returns them as saved; the beams are removed only then.

    Returns:
      The results; `decode_seconds` includes earlier calls that were killed, `seconds` does not.
    """
    start = time.monotonic()
    memory.reset_peak()
    saved = saved_run.load(
        model_dir, network=network, checkpoint=checkpoint, model_parallel=model_parallel
    )
    mixture = mixture or saved.run.mixture
    source = tasks.source_of(tasks.get(mixture))
    info = source.info()
    saved.run.check_dataset(info.dataset, info.fingerprint)
    settings = {
        "version": __version__,
        "run": dataclasses.asdict(saved.run),
        "network": repr(saved.network.config),
        "fingerprint": info.fingerprint,
        "num_beams": num_beams,
        "batch_size": batch_size,
        "constrained": constrained,
        "exclude_history": exclude_history,
        "method": method,
        "mixture": mixture,
        "num_examples": num_examples,
    }
    chunks = FinishedChunks.of(model_dir, split, saved.step, settings, saved.params)
    evaluation = Evaluation(
        mixture,
        split,
        saved.network,
        saved.mesh,
        saved.run.lengths,
        num_beams=num_beams,
        batch_size=batch_size,
        constrained=constrained,
        exclude_history=exclude_history,
        method=method,
        num_examples=num_examples,
        chunks=chunks,
    )
    decoding_used = Decoding(num_beams, constrained, exclude_history, method, batch_size)
    facts = {
        "dataset": source.dataset_name,
        "fingerprint": info.fingerprint,
        "split_fingerprint": info.split_fingerprint,
        "ids": info.ids,
        "model": saved.run.model,
        "mixture": saved.run.mixture,
        "step": saved.step,
        "seed": saved.run.seed,
        "split": split,
    }
    files = {}

    def keep(task: str, rows: pa.RecordBatch) -> None:
        path = per_user.path_of(model_dir, name_of(split, decoding_used), task)
        per_user.write(path, [rows], {**facts, "task": task})
        files[task] = str(path.relative_to(model_dir))

    measured = evaluation.run(saved.params, saved.step, keep)
    results = Results(
        **facts,
        ties=info.ties,
        version=__version__,
        initial_step=saved.run.initial_step,
        decoding=decoding_used,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(saved.params)),
        num_examples={task: evaluation.num_examples(task) for task in evaluation.tasks},
        metrics=measured,
        per_user=files,
        decode_seconds=evaluation.seconds,
        peak_memory_bytes=memory.peak_bytes(),
        seconds=time.monotonic() - start,
    )
    results = record(results) if record else results
    chunks.remove()
    return results
