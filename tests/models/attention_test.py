"""Our attention beside `jax.nn.dot_product_attention` with T5's bias."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from recllm_tasks.models import layers

B, H, D = 2, 2, 64


def _example(dtype=jnp.float32, length=None):
    rng = np.random.default_rng(0)
    Q, L = (length, length) if length else (16, 24)
    shapes = (B, H, Q, D), (B, H, L, D), (B, H, L, D)
    qkv = tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    visible = rng.random((B, 1, Q, L)) < 0.7
    visible[..., 0] = True
    position = jnp.asarray(rng.normal(size=(1, H, Q, L)), jnp.float32)
    return qkv, position, jnp.where(visible, 0.0, layers.MASKED).astype(jnp.float32)


def _ours(qkv, position, mask):
    return jnp.sum(jnp.sin(layers._mix(*qkv, (position, mask)).astype(jnp.float32)))


def _jax(qkv, position, mask):
    query, key, value = (x.transpose(0, 2, 1, 3) for x in qkv)
    mixed = jax.nn.dot_product_attention(
        query, key, value, bias=position + mask, scale=1.0, implementation="xla"
    )
    return jnp.sum(jnp.sin(mixed.astype(jnp.float32)))


def _with_gradients(attend):
    return jax.jit(jax.value_and_grad(attend, (0, 1)))


def test_values_and_gradients_are_those_of_jax():
    example = _example()
    found, expected = (_with_gradients(attend)(*example) for attend in (_ours, _jax))
    for mine, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)
    assert np.abs(found[1][1]).max() > 0, "the positions' bias learns"


def test_the_compiled_program_has_the_same_products_and_no_more_work():
    """Without cuDNN, JAX's function is the same six products, with more passes between them."""
    example = _example(jnp.bfloat16, length=256)
    programs = [_with_gradients(attend).lower(*example) for attend in (_ours, _jax)]
    products = [re.findall(r"stablehlo.dot_general", program.as_text()) for program in programs]
    assert len(products[0]) == len(products[1]) == 6
    mine, other = (program.compile() for program in programs)
    for measure in ("flops", "bytes accessed"):
        assert mine.cost_analysis()[measure] <= other.cost_analysis()[measure]
