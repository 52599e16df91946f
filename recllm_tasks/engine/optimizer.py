"""Adafactor with the paper's learning rate: 0.001, constant after 1,000 steps of warm-up."""

import optax


def constant_with_warmup(learning_rate: float = 0.001, warmup_steps: int = 1000) -> optax.Schedule:
    """Grows linearly to `learning_rate` within `warmup_steps`, then stays (paper §4.1).

    The first step has 1 / warmup_steps of it, as in T5X's `constant * linear_warmup`.
    """
    return lambda step: learning_rate * ((step + 1.0) / max(1, warmup_steps)).clip(max=1.0)


def adafactor(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adafactor as T5 was trained with: factored, updates relative to the parameters' scale.

    Source: Shazeer and Stern 2018, with T5X's settings (no momentum, clipping at 1, decay 0.8).
    The paper names no optimizer; T5X fine-tunes with this one.
    """
    return optax.adafactor(schedule, decay_rate=0.8, clipping_threshold=1.0, momentum=None)
