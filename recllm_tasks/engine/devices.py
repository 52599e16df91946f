"""This machine's devices as a mesh: `data` splits the batch, `model` splits the parameters."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import numpy as np
import optax
from flax.linen import partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recllm_tasks.errors import UserError, check_whole

# The mesh axis over which a logical axis of a parameter is split; None: not split.
PARAMETER_RULES = (
    ("batch", "data"),
    ("vocab", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("mlp", "model"),
    ("embed", None),
    ("kv", None),
    ("length", None),
    ("relpos_buckets", None),
)


def make_mesh(model_parallel: int = 1) -> Mesh:
    """A (data, model) mesh over all local devices, with `model_parallel` devices per model copy."""
    devices = jax.local_devices()
    check_whole("MODEL_PARALLEL", model_parallel, 1)
    if len(devices) % model_parallel:
        raise UserError(
            f"MODEL_PARALLEL for this machine: got {model_parallel}, expected a divisor of its "
            f"{len(devices)} devices; set MODEL_PARALLEL to a divisor"
        )
    return Mesh(np.array(devices).reshape(-1, model_parallel), ("data", "model"))


def split_batch(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def put(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """The batch on the devices."""
    return {name: jax.device_put(array, sharding) for name, array in batch.items()}


def parameter_shardings(mesh: Mesh, variables: Any) -> Any:
    """The sharding of every parameter, from the network's logical axes."""
    axes = flax.core.unfreeze(partitioning.get_axis_names(variables["params_axes"]))
    specs = jax.tree.map(
        lambda names: partitioning.logical_to_mesh_axes(names, PARAMETER_RULES),
        axes,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def moment_shardings(optimizer: optax.GradientTransformation, params: Any, mesh: Mesh) -> Any:
    """The sharding of every array of a fresh optimizer state: that which a step gives it.

    The parameters, which may be abstract, have theirs. So moments are split as they are, a step
    reuses the memory of the state, and it is compiled once.
    """
    if mesh.shape["model"] == 1:
        return replicated(mesh)

    def step(params):
        return optimizer.update(params, optimizer.init(params), params)[1]

    return jax.jit(step).lower(params).compile().output_shardings
