"""Adafactor and AdamW, and two learning rate schedules: for fine-tuning, and for short runs."""

import jax
import jax.numpy as jnp
import optax

from recllm_tasks.errors import UserError, check_number, check_whole


def constant_with_warmup(learning_rate: float = 0.001, warmup_steps: int = 1000) -> optax.Schedule:
    """Linear warm-up over `warmup_steps`, then constant; paper §4.1 names the rate and the steps.

    Our choice: linear and then constant, as T5 was fine-tuned, where the paper names no schedule.
    The first step has `learning_rate / warmup_steps`, as in T5X's `constant * linear_warmup`.
    """
    _check(learning_rate, warmup_steps)
    return lambda step: learning_rate * jnp.minimum(1.0, (step + 1.0) / max(1, warmup_steps))


def warmup_then_decay(learning_rate: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Linear warm-up as in `constant_with_warmup`, then linear decay to a fiftieth at the end.

    Our choice, for small models trained from scratch in minutes: the decay replaces many steps.

    Raises:
      UserError: the warm-up leaves no step to decay.
    """
    warmup = constant_with_warmup(learning_rate, warmup_steps)
    check_whole("TRAIN_STEPS", total_steps, 1)
    if warmup_steps >= total_steps:
        raise UserError(
            f"WARMUP_STEPS: got {warmup_steps}, expected fewer than TRAIN_STEPS, {total_steps}, "
            "because the learning rate decays after the warm-up; lower it, or raise TRAIN_STEPS"
        )
    decay = optax.linear_schedule(learning_rate, learning_rate / 50, total_steps - warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def _check(learning_rate: float, warmup_steps: int) -> None:
    check_number("LEARNING_RATE", learning_rate, 0)
    check_whole("WARMUP_STEPS", warmup_steps, 0)


def adafactor(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adafactor as in T5's training: factored, with updates relative to the parameters' scale.

    Source: Shazeer and Stern 2018, with T5X's settings (no momentum, clipping at 1, decay 0.8).
    Our choice: the paper names no optimizer; T5X uses this one for fine-tuning.
    """
    _check_schedule("adafactor", schedule)
    return optax.adafactor(schedule, decay_rate=0.8, clipping_threshold=1.0, momentum=None)


def adamw(
    schedule: optax.Schedule, weight_decay: float = 0.01, beta_1: float = 0.9, beta_2: float = 0.999
) -> optax.GradientTransformation:
    """AdamW with its usual settings (Loshchilov and Hutter 2019); norms' scales do not decay.

    Its updates do not grow with the parameters, as Adafactor's do: embeddings must begin small,
    see `T5Config.embedding_std`.
    """
    _check_schedule("adamw", schedule)
    check_number("optimizer.adamw.weight_decay", weight_decay, 0)
    check_number("optimizer.adamw.beta_1", beta_1, 0, 1)
    check_number("optimizer.adamw.beta_2", beta_2, 0, 1)

    def is_matrix(params):
        return jax.tree.map(lambda array: array.ndim > 1, params)

    return optax.adamw(schedule, b1=beta_1, b2=beta_2, weight_decay=weight_decay, mask=is_matrix)


def _check_schedule(name: str, schedule: optax.Schedule) -> None:
    if not callable(schedule):
        raise UserError(
            f"optimizer.{name}.schedule: got {schedule!r}, expected a schedule such as "
            "@optimizer.constant_with_warmup(); correct it"
        )
