import jax
import jax.numpy as jnp
import numpy as np
import optax

from recllm_tasks.engine.train_step import Z_LOSS, cross_entropy


def test_cross_entropy_and_its_gradient_equal_those_of_optax():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(3, 5, 40)) * 8, jnp.float32)
    targets = jnp.asarray(rng.integers(0, 40, (3, 5)))
    weights = jnp.asarray(rng.integers(0, 2, (3, 5)), jnp.float32)

    def ours(logits):
        losses = cross_entropy(logits, targets)
        return jnp.sum(weights * (losses.loss + Z_LOSS * jnp.square(losses.log_z)))

    def theirs(logits):
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return jnp.sum(weights * (loss + Z_LOSS * jnp.square(jax.nn.logsumexp(logits, axis=-1))))

    for mine, other in zip(jax.value_and_grad(ours)(logits), jax.value_and_grad(theirs)(logits)):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    right = cross_entropy(logits, targets).is_best
    np.testing.assert_array_equal(right, jnp.argmax(logits, axis=-1) == targets)
    best = cross_entropy(logits, jnp.argmax(logits, axis=-1))
    assert best.is_best.all()


def test_logits_beyond_exp_are_finite():
    logits = jnp.asarray([[[1e4, -1e4, 0.0]]])
    loss, gradient = jax.value_and_grad(lambda x: cross_entropy(x, jnp.array([[1]])).loss.sum())(
        logits
    )
    assert loss == 2e4
    np.testing.assert_allclose(gradient[0, 0], [1, -1, 0])
