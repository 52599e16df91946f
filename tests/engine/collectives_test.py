"""What devices send each other in a training step, read from the compiled program."""

import json
import os
import re
import subprocess
import sys

import pytest

# Every parameter that is split has more elements than this, also transposed; activations fewer.
PARAMETER = 64 * 64

COMPILE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from recllm_tasks.engine import devices, optimizer, saved_run
from recllm_tasks.engine.train_step import State, train_step
from recllm_tasks.models.network import T5Config, Transformer

network = Transformer(T5Config(
    vocab_size=4096, emb_dim=128, num_heads=4, head_dim=32, mlp_dim=256, dtype="bfloat16",
    num_encoder_layers=2, num_decoder_layers=2, remat=json.loads(sys.argv[1]),
))
mesh = devices.make_mesh(model_parallel=2)
assert dict(mesh.shape) == {"data": 4, "model": 2}
rule = optimizer.adafactor(optimizer.constant_with_warmup())

def abstract(x, sharding):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

params, whole = saved_run.abstract_params(network, mesh), devices.replicated(mesh)
fresh = jax.tree.map(lambda x: abstract(x, whole), jax.eval_shape(rule.init, params))
batch = {
    f"{side}_{name}": abstract(np.zeros((4, 8), np.int32), devices.split_batch(mesh))
    for side, tokens in (("encoder", ["input_tokens"]),
                         ("decoder", ["input_tokens", "target_tokens"]))
    for name in (*tokens, "segment_ids", "positions")
}
key = abstract(jax.eval_shape(lambda: jax.random.key(0)), whole)
state = State(abstract(jnp.int32(0), whole), params, fresh)
program = train_step.lower(network, rule, state, batch, key).compile()
print(json.dumps(program.as_text()))
"""


@pytest.fixture(scope="module", params=["false", "true"], ids=["whole", "remat"])
def program(request) -> str:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", COMPILE, request.param],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return re.sub(r"/\*.*?\*/", "", json.loads(done.stdout.splitlines()[-1]))


def _sent(program: str, operation: str) -> list[int]:
    """Elements of each result of an operation."""
    sizes = []
    for shapes in re.findall(rf"= (\(?[^=]*?) {operation}(?:-start)?\(", program):
        for dimensions in re.findall(r"\w+\[([\d,]*)\]", shapes):
            size = 1
            for number in filter(None, dimensions.split(",")):
                size *= int(number)
            sizes.append(size)
    return sizes


@pytest.mark.slow
def test_no_parameter_is_gathered(program):
    """Split parameters stay where they are: activations and gradients alone travel."""
    assert max(_sent(program, "all-reduce")) >= PARAMETER  # gradients: the sizes are read rightly
    for operation in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert max(_sent(program, operation), default=0) < PARAMETER, operation


@pytest.mark.slow
def test_a_step_never_asks_the_host(program):
    assert not re.findall(r"infeed|outfeed|callback|send\(|recv\(", program)
