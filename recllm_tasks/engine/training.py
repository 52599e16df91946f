"""Fine-tuning on this machine, with checkpoints and validation."""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import seqio
from clu import metric_writers

from recllm_tasks import progress, tasks
from recllm_tasks.engine import devices, initial_state, tracking
from recllm_tasks.engine.checkpoints import BEST, LAST, Checkpoints
from recllm_tasks.engine.evaluation import Evaluation
from recllm_tasks.engine.preemption import Preemption, preemption
from recllm_tasks.engine.train_step import State, all_finite, train_step
from recllm_tasks.errors import UserError, check_text, check_whole
from recllm_tasks.files import read_json, write_json
from recllm_tasks.models.network import Transformer
from recllm_tasks.pipeline.training import check_lengths, num_examples, training_batches
from recllm_tasks.runs import run_folder
from recllm_tasks.runs.decoding import Decoding
from recllm_tasks.runs.run_folder import Run

# Steps between two writes of scalars and updates of the progress line.
LOG_PERIOD = 20

# Steps that are timed, after the first, for the estimate of how long training takes.
_TIMED_STEPS = 10

# Seeds of tf.data and JAX keys have 32 bits.
MAX_SEED = 2**31 - 1

# The metric that chooses the best checkpoint. Paper §4.1: validation on retrieval; the paper does
# not name the metric. A mixture without retrieval uses the first of these that it has.
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
    patience: int | None = None,
    decoding: Decoding = Decoding(),
    seed: int = 0,
    model_parallel: int = 1,
    initial_checkpoint: str | None = None,
    initial_step: int = 0,
    log_to: Sequence[str] = (),
) -> pathlib.Path:
    """Trains for `steps`; resumes from the last checkpoint in `model_dir` if there is one.

    A run may be killed at any time: the same call then ends with the parameters of a run that was
    not. SIGTERM saves the state of the step that is under way. Nothing that is not finite is saved.

    Args:
      mixture: task or mixture to train on.
      model_dir: the run's folder, see run_folder.py.
      model_name: a name for tables.
      lengths: of `inputs` and `targets`, in tokens.
      network: the model.
      optimizer: see optimizer.py.
      steps: training steps in total, after `initial_step`.
      batch_size: packed rows in a batch.
      eval_period: steps between validations; a checkpoint is written after each.
      eval_examples: validation examples; None is the whole split, 3,000 users at most.
      patience: validations in a row without a better one that end training early; None is never.
      decoding: the settings of decoding in validation.
      seed: of parameters, order, sampling and dropout.
      model_parallel: devices that share one copy of the parameters.
      initial_checkpoint: folder of a checkpoint in any format, to start from its parameters
        (initial_state.py); None starts from random ones.
      initial_step: the step that counting starts from. With `steps` 0 the checkpoint is validated
        and saved unchanged.
      log_to: where scalars go besides TensorBoard: "wandb", "mlflow" (tracking.py).

    Returns:
      The folder of the best checkpoint.

    Raises:
      UserError: a setting, the folder or a checkpoint is unfit; another process trains in the
        folder; the loss is no longer finite.
      Terminated: SIGTERM came, and the state is saved.
    """
    check_text("MODEL_DIR", model_dir)
    check_whole("INITIAL_STEP", initial_step, 0)
    check_whole("TRAIN_STEPS", steps, 1 if initial_checkpoint is None else 0)
    last = initial_step + steps
    check_whole("EVAL_PERIOD", eval_period, 1)
    if patience is not None:
        check_whole("PATIENCE (None is never to stop early)", patience, 1)
    check_whole("RANDOM_SEED", seed, 0, MAX_SEED)
    tracking.check(log_to)
    mesh = devices.make_mesh(model_parallel)
    check_batch_size(batch_size, mesh)
    check_lengths(lengths)
    found = tasks.get(mixture)
    check_vocabulary(found, network)
    vocabulary = found.output_features["inputs"].vocabulary
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_folder.held(model_dir))
        checkpoints = stack.enter_context(Checkpoints(model_dir, writes=True))
        done = checkpoints.latest_step(LAST)
        source = None
        if done is None and initial_checkpoint is not None:
            source = initial_state.open_checkpoint(initial_checkpoint, network, vocabulary)
        items = initial_state.item_rows(
            found, network, seed, initial_checkpoint, is_resumed=done is not None
        )
        # Asked before the settings are written, which hold what was asked for.
        stddev = initial_state.normal()
        seen = 0 if done is None else done - initial_step
        stream = training_batches(mixture, lengths, batch_size, seed, seen)
        stack.enter_context(contextlib.closing(stream))
        validation = validation_of(found, network, mesh, lengths, decoding, eval_examples)
        run = describe_run(
            found, model_name, lengths, network, seed, initial_checkpoint, initial_step
        )
        asked = gin.operative_config_str()
        changes = run_folder.open_for_training(
            model_dir, run, vocabulary.sentencepiece_model_file, asked, done
        )
        for change in changes:
            progress.console.print(f"other settings than before: {change}", markup=False)
        if source is None:
            state = initial_state.random_state(
                network, optimizer, mesh, seed, initial_step, items, stddev
            )
        else:
            state = initial_state.state_of(source, network, optimizer, mesh, initial_step)
        if done is not None:
            restored = checkpoints.restore(LAST, like=state.stored(), step=done)
            state = State(restored["step"], restored["params"], restored["optimizer"])
            progress.console.print(f"resumed at step {done:,} from {model_dir}")
        writer = tracking.writer(model_dir, log_to, asked)
        stack.enter_context(contextlib.closing(writer))
        if patience is not None and validation is None:
            raise UserError(
                f"PATIENCE: got {patience}, expected None, because no task of '{mixture}' can be "
                "validated; give --gin.PATIENCE=None"
            )
        schedule = Schedule(last, eval_period, patience)
        loop = _Loop(network, optimizer, mesh, checkpoints, validation, model_dir, seed, writer)
        stop = stack.enter_context(preemption())
        loop.run(state, stream, f"train {mixture}", schedule, stop)
    return pathlib.Path(model_dir) / (BEST if validation else LAST)


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError unless a batch can be split over the mesh."""
    check_whole("BATCH_SIZE", batch_size, 1)
    parts = mesh.shape["data"]
    if batch_size % parts:
        raise UserError(
            f"BATCH_SIZE: got {batch_size}, expected a multiple of {parts}, because this machine's "
            "devices split a batch so many ways; correct it, or raise MODEL_PARALLEL"
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
        records_digest=source.info().records_digest,
        lengths=dict(lengths),
        network=config,
        seed=seed,
        model=model_name,
        initial_checkpoint=initial_checkpoint,
        initial_step=initial_step,
    )


class Selection(NamedTuple):
    """What chooses the best checkpoint. A metric of None is the first that the task measures."""

    task: str
    metric: str | None


class Validation(NamedTuple):
    """An evaluation of the one task that chooses the best checkpoint."""

    evaluation: Evaluation
    selection: Selection

    def measure(self, params, check: Callable[[], None]) -> tuple[str, dict[str, float]]:
        """(the metric that counts, all metrics of the task); calls `check` between batches."""
        measured = self.evaluation.run(params, check=check)[self.selection.task]
        return self.selection.metric or next(iter(measured)), measured


def validation_of(
    found: seqio.Task | seqio.Mixture,
    network: Transformer,
    mesh: jax.sharding.Mesh,
    lengths: Mapping[str, int],
    decoding: Decoding,
    num_examples: int | None,
) -> Validation | None:
    """None if no task of `found` can be validated."""
    selection = choose_validation(found)
    if selection is None:
        return None
    evaluation = Evaluation(
        [tasks.get(selection.task)],
        "validation",
        network,
        mesh,
        lengths,
        decoding,
        num_examples=num_examples,
    )
    return Validation(evaluation, selection)


def choose_validation(found: seqio.Task | seqio.Mixture) -> Selection | None:
    """The choice by `SELECTION`, else the first task that can be validated, else None.

    If there are several tasks of a kind (`tasks.kind_of`), the mixture's first is chosen.
    """
    measured = [
        task.name
        for task in seqio.get_subtasks(found)
        if "validation" in task.splits and task.metric_objs
    ]
    dataset = tasks.source_of(found).dataset_name
    for kind, metric in SELECTION:
        for name in measured:
            if tasks.kind_of(name, dataset) == kind:
                return Selection(name, metric)
    return Selection(measured[0], None) if measured else None


class Schedule(NamedTuple):
    """When training validates, and when it ends: see `train`. `steps` is the last step."""

    steps: int
    eval_period: int
    patience: int | None

    def is_over(self, step: int, best: Mapping[str, Any]) -> bool:
        """Whether the state of `step` is the last; `best` is best.json, which may be empty."""
        if step >= self.steps:
            return True
        if self.patience is None or not best:
            return False
        return best.get("validated", 0) - best["step"] >= self.patience * self.eval_period


class _Loop:
    """The training loop, with its checkpoints, validation and logs."""

    def __init__(
        self,
        network: Transformer,
        optimizer: optax.GradientTransformation,
        mesh: jax.sharding.Mesh,
        checkpoints: Checkpoints,
        validation: Validation | None,
        model_dir: str,
        seed: int,
        writer: metric_writers.MetricWriter,
    ):
        self._network, self._optimizer, self._mesh = network, optimizer, mesh
        self._checkpoints, self._validation = checkpoints, validation
        self._best_file = pathlib.Path(model_dir) / BEST / "best.json"
        self._model_dir, self._seed, self._writer = model_dir, seed, writer

    def run(
        self,
        state: State,
        stream,
        what: str,
        schedule: Schedule,
        stop: Preemption,
    ) -> None:
        key = jax.random.key(self._seed)
        step = int(state.step)
        steps, eval_period, _ = schedule
        parts = self._mesh.shape["data"]
        saved = self._checkpoints.latest_step(LAST)
        left = _TimeLeft(schedule)
        with progress.work(what, steps, step) as work:
            if step == steps and saved is None:
                saved = self._save(state, step)
            # A run that was killed before or while it validated its last state.
            if saved == step and (step == steps or step % eval_period == 0):
                self._validate(state, step, work, stop)
            window = _Window()
            is_over = schedule.is_over(step, self._best())
            following = None if is_over else self._sent(stream)
            while following is not None and not is_over:
                examples, batch = following
                state, measures = train_step(
                    self._network, self._optimizer, state, batch, key, parts=parts
                )
                step += 1
                # While the devices compute, and before anything waits for them.
                following = None if step == steps else self._sent(stream)
                window.add(examples, measures)
                if left.is_timed(measures):
                    work.say(left.announcement(step))
                is_due = step % eval_period == 0 or step == steps
                if step % LOG_PERIOD == 0 or is_due or stop.requested:
                    scalars = window.summary()
                    if not np.isfinite(scalars["loss"]):
                        raise self._diverged(step, f"a loss of {scalars['loss']}")
                    self._writer.write_scalars(step, scalars)
                    left.add_steps(window)
                    note = f"loss {scalars['loss']:.3f}  {scalars['examples/s']:.0f} examples/s"
                    work.advance(window.steps, f"{note}{left.note(step)}")
                    window = _Window()
                if is_due or stop.requested:
                    self._save(state, step)
                    self._end_if_asked(stop)
                if is_due:
                    with left.validation():
                        self._validate(state, step, work, stop)
                    is_over = schedule.is_over(step, self._best())
                    window = _Window()
            if step < steps:
                best = self._best()
                work.say(
                    f"stopped early at step {step:,}: no validation since step {best['step']:,} "
                    f"gave a better {best['metric']}"
                )

    def _sent(self, stream) -> tuple[int, dict[str, jax.Array]]:
        """The next batch, on its way to the devices, and the number of its examples."""
        batch = next(stream)
        return num_examples(batch), devices.put(batch, devices.split_batch(self._mesh))

    def _best(self) -> dict[str, Any]:
        """best.json; empty before the first validation."""
        return read_json(self._best_file) or {}

    def _save(self, state: State, step: int) -> int:
        """Saves the state to resume from, before it is validated, which may take long."""
        if not all_finite(state.stored()):
            raise self._diverged(step, "parameters or moments that are not finite")
        self._checkpoints.save(LAST, step, state.stored())
        return step

    def _end_if_asked(self, stop: Preemption) -> None:
        if stop.requested:
            step = self._checkpoints.latest_step(LAST)
            stop.end(
                f"stopped by SIGTERM; step {step} is saved, and the same command resumes there"
            )

    def _diverged(self, step: int, got: str) -> UserError:
        saved = self._checkpoints.latest_step(LAST)
        where = (
            f"resumes from the last saved state, of step {saved:,}"
            if saved is not None
            else "starts over, as no state is saved"
        )
        return UserError(
            f"Training at step {step}: got {got}, expected finite numbers; lower LEARNING_RATE or "
            f"raise WARMUP_STEPS, and run the command again: it {where}"
        )

    def _validate(self, state: State, step: int, work: progress.Work, stop: Preemption) -> None:
        """Validates the state of `step`, which is saved, unless a killed run already has."""
        if self._validation is None:
            return
        best = self._best()
        # Runs of older versions saved a state after its validation.
        if best and best.get("validated", step) >= step:
            return
        task = self._validation.selection.task
        metric, measured = self._validation.measure(state.params, lambda: self._end_if_asked(stop))
        self._writer.write_scalars(step, {f"validation/{task}/{k}": v for k, v in measured.items()})
        value = measured[metric]
        work.say(f"step {step:,}: validation {metric} {value:.4f}")
        if not best or _is_better(value, best["value"]):
            # If the process is killed before the file is written, this is done again.
            self._checkpoints.save(BEST, step, state.params)
            known = {k: None if math.isnan(v) else v for k, v in measured.items()}
            best = {"step": step, "task": task, "metric": metric, "value": known[metric]}
            best["metrics"] = known
        write_json(self._best_file, {**best, "validated": step})


def _is_better(value: float, best: float | None) -> bool:
    """An undefined value (NaN, None) is the worst: the AUC where all users like their item."""
    return not math.isnan(value) and (best is None or value > best)


class _TimeLeft:
    """How long training will take, from the steps and validations so far.

    Our choice: the first step compiles and the next ones are measured, because no estimate from
    counts of operations fits every machine.
    """

    def __init__(self, schedule: Schedule):
        self._schedule = schedule
        self._timed: list[float] = []
        self._has_compiled = False
        self._per_step = self._per_validation = math.nan

    def is_timed(self, measures) -> bool:
        """Called after each step; True once, when `_TIMED_STEPS` were measured.

        Our choice: the median, as at first batches may wait for the input.
        """
        if len(self._timed) > _TIMED_STEPS:
            return False
        jax.block_until_ready(measures)
        self._timed.append(time.monotonic())
        if len(self._timed) <= _TIMED_STEPS:
            return False
        self._per_step = float(np.median(np.diff(self._timed)))
        return True

    def add_steps(self, window: "_Window") -> None:
        """Follows a machine that becomes faster or slower; the first steps compile."""
        if self._has_compiled and not math.isnan(self._per_step):
            latest = window.seconds / window.steps
            self._per_step += 0.5 * (latest - self._per_step)
        self._has_compiled = True

    @contextlib.contextmanager
    def validation(self) -> Iterator[None]:
        """Measures a validation. The first one compiles, so the second replaces it."""
        start = time.monotonic()
        yield
        self._per_validation = time.monotonic() - start

    def seconds(self, step: int) -> float:
        """Until the last step; before the first validation, without the time of validations."""
        steps, eval_period, _ = self._schedule
        validations = steps // eval_period - step // eval_period + (steps % eval_period > 0)
        of_validations = 0.0 if math.isnan(self._per_validation) else self._per_validation
        return (steps - step) * self._per_step + validations * of_validations

    def announcement(self, step: int) -> str:
        steps, eval_period, patience = self._schedule
        early = "" if patience is None else ", less if it stops early"
        return (
            f"about {progress.duration(self.seconds(step))} of training{early}: "
            f"{steps - step:,} steps of {self._per_step:.2g} s; besides, a validation every "
            f"{eval_period:,} steps"
        )

    def note(self, step: int) -> str:
        """For the progress line; empty before anything is known."""
        if math.isnan(self._per_step):
            return ""
        return f"  about {progress.duration(self.seconds(step))} left"


class _Window:
    """Measures since the last report."""

    def __init__(self):
        self.steps, self._examples, self._start = 0, 0, time.monotonic()
        self.seconds = 0.0  # known after `summary`
        self._measures = []

    def add(self, examples: int, measures) -> None:
        self.steps += 1
        self._examples += examples
        self._measures.append(measures)

    def summary(self) -> dict[str, float]:
        measures = jax.device_get(self._measures)
        seconds = self.seconds = time.monotonic() - self._start
        return {
            "loss": float(np.mean([m.loss for m in measures])),
            "accuracy": float(np.mean([m.accuracy for m in measures])),
            "examples/s": self._examples / seconds,
            "steps/s": self.steps / seconds,
        }
