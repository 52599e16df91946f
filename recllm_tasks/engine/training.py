"""Fine-tuning on this machine: batches in, checkpoints out, validation on the way."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import seqio
from clu import metric_writers

from recllm_tasks import progress, tasks
from recllm_tasks.engine import batches, devices, initial_state
from recllm_tasks.engine.checkpoints import BEST, LAST, Checkpoints
from recllm_tasks.engine.evaluation import Evaluation
from recllm_tasks.engine.train_step import State, train_step
from recllm_tasks.errors import UserError, check_text, check_whole
from recllm_tasks.files import read_json, write_json
from recllm_tasks.models.network import Transformer
from recllm_tasks.runs import run_folder
from recllm_tasks.runs.run_folder import Run

# Scalars are written, and the progress line renewed, every so many steps.
LOG_PERIOD = 20

# Seeds of tf.data and of JAX's keys are 32 bits wide.
MAX_SEED = 2**31 - 1

# What the best checkpoint is chosen by. Paper §4.1: by validation on retrieval; the paper does not
# name the metric. Mixtures without retrieval take what they have, in this order.
SELECTION = (("retrieval", "ndcg@10"), ("ranking", "ndcg@10"), ("rating", "auc"))


def train(
    *,
    mixture: str,
    model_dir: str,
    model_name: str,
    lengths: Mapping[str, int],
    network: Transformer,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int,
    eval_period: int = 1000,
    eval_examples: int | None = None,
    eval_batch_size: int = 32,
    num_beams: int = 20,
    seed: int = 0,
    model_parallel: int = 1,
    initial_checkpoint: str | None = None,
    initial_step: int = 0,
) -> pathlib.Path:
    """Trains for `steps`, going on from the last checkpoint in `model_dir` if there is one.

    Args:
      mixture: task or mixture to train on.
      model_dir: folder of the run, see run_folder.py.
      model_name: a name for tables.
      lengths: of `inputs` and `targets`, in tokens.
      network: the model.
      optimizer: made by optimizer.py.
      steps: training steps in total, after `initial_step`.
      batch_size: packed rows of a batch.
      eval_period: steps between validations, which are also where checkpoints are written.
      eval_examples: validation examples; None is all that the split has, 3,000 users at most.
      eval_batch_size: examples decoded together.
      num_beams: width of the beam in validation.
      seed: of parameters, order, sampling and dropout.
      model_parallel: devices that share one copy of the parameters.
      initial_checkpoint: folder of a checkpoint in any format, whose parameters training begins
        with (initial_state.py); None begins with random ones.
      initial_step: what the first step is counted from. With `steps` 0 the checkpoint is validated
        and kept as it is.

    Returns:
      The folder of the best checkpoint.
    """
    check_text("MODEL_DIR", model_dir)
    check_whole("INITIAL_STEP", initial_step, 0)
    check_whole("TRAIN_STEPS", steps, 1 if initial_checkpoint is None else 0)
    last = initial_step + steps
    check_whole("EVAL_PERIOD", eval_period, 1)
    check_whole("RANDOM_SEED", seed, 0, MAX_SEED)
    mesh = devices.make_mesh(model_parallel)
    check_batch_size(batch_size, mesh)
    batches.check_lengths(lengths)
    found = tasks.get(mixture)
    check_vocabulary(found, network)
    # What may be refused is made before the folder, so that no folder of a refused run is left.
    checkpoints = Checkpoints(model_dir)
    done = checkpoints.latest_step(LAST)
    vocabulary = found.output_features["inputs"].vocabulary
    source = None
    if done is None and initial_checkpoint is not None:
        source = initial_state.open_checkpoint(initial_checkpoint, network, vocabulary)
    seen = 0 if done is None else done - initial_step
    stream = batches.training_batches(mixture, lengths, batch_size, seed, seen)
    validation = validation_of(
        found, network, mesh, lengths, num_beams, eval_batch_size, eval_examples
    )
    run = describe_run(found, model_name, lengths, network, seed, initial_checkpoint, initial_step)
    run_folder.open_for_training(
        model_dir, run, vocabulary.sentencepiece_model_file, gin.operative_config_str()
    )
    if source is None:
        state = initial_state.random_state(network, optimizer, mesh, seed, initial_step)
    else:
        state = initial_state.state_of(source, network, optimizer, mesh, initial_step)
    if done is not None:
        state = checkpoints.restore(LAST, like=state, step=done)
        progress.console.print(f"resumed at step {done:,} from {model_dir}")
    loop = _Loop(network, optimizer, mesh, checkpoints, validation, model_dir, seed)
    loop.run(state, stream, f"train {mixture}", last, eval_period)
    checkpoints.close()
    return pathlib.Path(model_dir) / (BEST if validation else LAST)


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError unless a batch can be split over the mesh."""
    check_whole("BATCH_SIZE", batch_size, 1)
    parts = mesh.shape["data"]
    if batch_size % parts:
        raise UserError(
            f"BATCH_SIZE: got {batch_size}, expected a multiple of {parts}, over which this "
            "machine's devices split a batch; correct it, or raise MODEL_PARALLEL"
        )


def check_vocabulary(found: seqio.Task | seqio.Mixture, network: Transformer) -> None:
    """Raises UserError if the model has fewer embeddings than the vocabulary has ids."""
    vocabulary = found.output_features["inputs"].vocabulary
    if vocabulary.vocab_size > network.config.vocab_size:
        raise UserError(
            f"Vocabulary '{vocabulary.sentencepiece_model_file}' is too large for the model: got "
            f"{vocabulary.vocab_size} ids with sentinels, expected at most "
            f"{network.config.vocab_size}; bind vocabulary.sentencepiece_file.path to the model's "
            "own vocabulary, or raise network.T5Config.vocab_size"
        )


def describe_run(
    found: seqio.Task | seqio.Mixture,
    model_name: str,
    lengths: Mapping[str, int],
    network: Transformer,
    seed: int,
    initial_checkpoint: str | None = None,
    initial_step: int = 0,
) -> Run:
    source = tasks.source_of(found)
    config = dataclasses.asdict(network.config)
    config["dtype"] = jnp.dtype(config["dtype"]).name
    config["mlp_activations"] = list(config["mlp_activations"])
    return Run(
        mixture=found.name,
        dataset=source.dataset_name,
        fingerprint=source.info().fingerprint,
        lengths=dict(lengths),
        network=config,
        seed=seed,
        model=model_name,
        initial_checkpoint=initial_checkpoint,
        initial_step=initial_step,
    )


def validation_of(
    found, network, mesh, lengths, num_beams, batch_size, num_examples
) -> tuple[Evaluation, str, str] | None:
    """(evaluation, task, metric) that chooses the best checkpoint; None without such a task."""
    task, metric = choose_validation(found)
    if task is None:
        return None
    evaluation = Evaluation(
        task,
        "validation",
        network,
        mesh,
        lengths,
        num_beams=num_beams,
        batch_size=batch_size,
        num_examples=num_examples,
    )
    return evaluation, task, metric


def choose_validation(found: seqio.Task | seqio.Mixture) -> tuple[str | None, str | None]:
    """(task, metric) by `SELECTION`, else the first task that can be validated; or (None, None).

    P5's tasks count as those of their kind; of several of a kind the mixture's first is taken. A
    metric of None is the first that the task measures.
    """
    measured = [
        task.name
        for task in seqio.get_subtasks(found)
        if "validation" in task.splits and task.metric_objs
    ]
    dataset = tasks.source_of(found).dataset_name
    for kind, metric in SELECTION:
        p5 = f"{dataset}_p5_{kind}"
        for name in measured:
            if name in (f"{dataset}_{kind}", p5) or name.startswith(f"{p5}_"):
                return name, metric
    return (measured[0], None) if measured else (None, None)


class _Loop:
    """The training loop and what it reports to."""

    def __init__(self, network, optimizer, mesh, checkpoints, validation, model_dir, seed):
        self._network, self._optimizer, self._mesh = network, optimizer, mesh
        self._checkpoints, self._validation = checkpoints, validation
        self._best_file = pathlib.Path(model_dir) / BEST / "best.json"
        self._writer = metric_writers.create_default_writer(model_dir, just_logging=False)
        self._seed = seed

    def run(self, state: State, stream, what: str, steps: int, eval_period: int) -> None:
        key = jax.random.key(self._seed)
        step = int(state.step)
        split = devices.split_batch(self._mesh)
        with progress.work(what, steps, step) as work:
            if step == steps and self._checkpoints.latest_step(LAST) is None:
                self._keep(state, step, work)
            window = _Window()
            while step < steps:
                batch = next(stream)
                examples = batches.num_examples(batch)
                state, measures = train_step(
                    self._network, self._optimizer, state, batches.put(batch, split), key
                )
                step += 1
                window.add(examples, measures)
                if step % LOG_PERIOD == 0 or step == steps:
                    scalars = window.summary()
                    check_finite(scalars, step)
                    self._writer.write_scalars(step, scalars)
                    note = f"loss {scalars['loss']:.3f}  {scalars['examples/s']:.0f} examples/s"
                    work.advance(window.steps, note)
                    window = _Window()
                if step % eval_period == 0 or step == steps:
                    self._keep(state, step, work)
                    window = _Window()
        self._writer.flush()
        self._writer.close()

    def _keep(self, state: State, step: int, work: progress.Work) -> None:
        self._validate(state, step, work)
        self._checkpoints.save(LAST, step, state)

    def _validate(self, state: State, step: int, work: progress.Work) -> None:
        if self._validation is None:
            return
        evaluation, task, metric = self._validation
        measured = evaluation.run(state.params, step)[task]
        metric = metric or next(iter(measured))
        self._writer.write_scalars(step, {f"validation/{task}/{k}": v for k, v in measured.items()})
        best = read_json(self._best_file) or {"value": -1.0}
        work.say(f"step {step:,}: validation {metric} {measured[metric]:.4f}")
        if measured[metric] > best["value"]:
            self._checkpoints.save(BEST, step, state.params)
            chosen = {"step": step, "task": task, "metric": metric, "value": measured[metric]}
            write_json(self._best_file, {**chosen, "metrics": measured})


class _Window:
    """What happened since the last report."""

    def __init__(self):
        self.steps, self._examples, self._start = 0, 0, time.monotonic()
        self._measures = []

    def add(self, examples: int, measures) -> None:
        self.steps += 1
        self._examples += examples
        self._measures.append(measures)

    def summary(self) -> dict[str, float]:
        measures = jax.device_get(self._measures)
        seconds = time.monotonic() - self._start
        return {
            "loss": float(np.mean([m.loss for m in measures])),
            "accuracy": float(np.mean([m.accuracy for m in measures])),
            "examples/s": self._examples / seconds,
            "steps/s": self.steps / seconds,
        }


def check_finite(scalars: Mapping[str, float], step: int) -> None:
    if not np.isfinite(scalars["loss"]):
        raise UserError(
            f"Loss at step {step}: got {scalars['loss']}, expected a finite number; lower "
            "LEARNING_RATE or raise WARMUP_STEPS, and start again from an earlier checkpoint"
        )
