"""Tiles of devices for model parallelism."""

import jax
import pytest

from recllm_tasks.errors import UserError
from recllm_tasks.t5x_bridge import mesh


@pytest.mark.parametrize(
    ("bounds", "size", "expected"),
    [
        ((4, 4, 1, 1), 1, (1, 1, 1, 1)),  # v5e-16
        ((4, 4, 1, 1), 2, (2, 1, 1, 1)),
        ((4, 4, 1, 1), 4, (2, 2, 1, 1)),
        ((4, 4, 1, 1), 8, (4, 2, 1, 1)),
        ((4, 4, 1, 1), 16, (4, 4, 1, 1)),
        ((2, 2, 1, 2), 2, (1, 1, 1, 2)),  # both cores of a chip first
        ((2, 2, 4, 1), 8, (2, 2, 2, 1)),
    ],
)
def test_a_tile_is_compact_and_divides_the_grid(bounds, size, expected):
    assert mesh.tile(bounds, size) == expected


def test_a_size_that_no_tile_has_is_refused():
    with pytest.raises(UserError, match=r"MODEL_PARALLEL .* got 3, expected .* grid of 4x4x1x1"):
        mesh.tile((4, 4, 1, 1), 3)


def test_on_cpus_the_submesh_applies():
    assert jax.devices()[0].platform == "cpu"
    assert mesh.num_partitions(2) is None
    assert mesh.submesh(2) == (1, 2)
