"""How many devices share one copy of the parameters, as T5X expresses it for each device kind."""

import math
from collections.abc import Sequence

import jax

from recllm_tasks.errors import UserError, check_whole

# T5X has a default layout of model parallelism for these.
_KNOWN_TO_T5X = ("TPU v2", "TPU v3", "TPU v4", "TPU v4 lite")


def num_partitions(model_parallel: int) -> int | None:
    """`PjitPartitioner.num_partitions`, or None where `submesh` applies."""
    check_whole("MODEL_PARALLEL", model_parallel, 1)
    return model_parallel if _t5x_lays_out() else None


def submesh(model_parallel: int) -> tuple[int, ...] | None:
    """`PjitPartitioner.model_parallel_submesh`, or None where T5X has a default.

    On CPUs T5X ignores `num_partitions`, and for newer TPUs it has no default.
    """
    if _t5x_lays_out():
        return None
    last = jax.devices()[-1]
    if last.platform == "cpu":
        return (1, model_parallel)
    bounds = [x + 1 for x in last.coords] + [getattr(last, "core_on_chip", 0) + 1]
    return tile(bounds, model_parallel)


def _t5x_lays_out() -> bool:
    device = jax.devices()[-1]
    return device.platform == "gpu" or device.device_kind in _KNOWN_TO_T5X


def tile(bounds: Sequence[int], size: int) -> tuple[int, ...]:
    """The most compact tile of `size` devices that divides a grid of `bounds`.

    The devices of a tile exchange activations in every layer; a compact tile has short paths.

    Args:
      bounds: devices along x, y, z and cores of a chip.
      size: devices of the tile.
    """
    tiles: list[tuple[int, ...]] = [()]
    for bound in bounds:
        divisors = [n for n in range(1, bound + 1) if bound % n == 0]
        tiles = [(*part, n) for part in tiles for n in divisors]
    fitting = [part for part in tiles if math.prod(part) == size]
    if not fitting:
        raise UserError(
            f"MODEL_PARALLEL for this machine: got {size}, expected the size of a tile that "
            f"divides its grid of {'x'.join(map(str, bounds))} devices; correct it"
        )
    # Cores of one chip first, then the shortest edges, along x first.
    return min(fitting, key=lambda part: (-part[-1], max(part), [-n for n in part]))
