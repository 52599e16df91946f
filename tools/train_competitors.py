"""What the training benchmark compares: steps of Adafactor over the same weights and batches.

Each competitor has `available()` and `run(batches)`, which trains one step on each batch and
returns its seconds, the first batch's cross-entropy, and the peak of memory.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from side_by_side import load_transformers, our_params, peak_gib

from recllm_tasks.errors import UserError
from recllm_tasks.t5x_bridge import imports

LEARNING_RATE = 1e-3

Batch = Mapping[str, np.ndarray]


class _Competitor:
    """Times `_step`, which trains on one batch and returns its loss."""

    @staticmethod
    def available() -> bool:
        return True

    def run(self, batches: Sequence[Batch]) -> dict:
        start = time.perf_counter()
        losses = [self._step(batch) for batch in batches]
        return {
            "seconds": time.perf_counter() - start,
            "loss": float(losses[0]),
            "last": float(losses[-1]),
            "peak": peak_gib(),
        }


class Ours(_Competitor):
    """The engine's train step."""

    def __init__(self, sizes: dict, weights: str, dropout: float, threads: int):
        import jax
        import jax.numpy as jnp

        from recllm_tasks.engine import optimizer, train_step
        from recllm_tasks.models.network import T5Config, Transformer

        self._key, self._train = jax.random.key(0), train_step.train_step
        self._network = Transformer(T5Config(dropout_rate=dropout, **sizes))
        self._rule = optimizer.adafactor(optimizer.constant_with_warmup(LEARNING_RATE, 0))
        params = our_params(sizes, weights)
        self._state = train_step.State(jnp.int32(0), params, self._rule.init(params))

    def _step(self, batch: Batch) -> float:
        self._state, measures = self._train(
            self._network, self._rule, self._state, batch, self._key
        )
        return float(measures.loss)


class Transformers(_Competitor):
    """Hugging Face's T5 in torch, with torch's Adafactor."""

    def __init__(self, sizes: dict, weights: str, dropout: float, threads: int):
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self._torch = torch
        self._model = load_transformers(weights, dropout_rate=dropout).train()
        self._optimizer = torch.optim.Adafactor(self._model.parameters(), lr=LEARNING_RATE)

    def _step(self, batch: Batch) -> float:
        inputs, shifted, targets = (
            self._torch.tensor(batch[name], dtype=self._torch.long)
            for name in ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
        )
        logits = self._model(
            input_ids=inputs,
            attention_mask=(inputs > 0).long(),
            decoder_input_ids=shifted,
            use_cache=False,
        ).logits
        loss = self._torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=0
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())


class T5X(_Competitor):
    """T5X's train step with its own network and Adafactor."""

    @staticmethod
    def available() -> bool:
        try:
            imports.prepare()
        except UserError:
            return False
        return True

    def __init__(self, sizes: dict, weights: str, dropout: float, threads: int):
        imports.prepare()
        import functools

        import jax
        import seqio
        from t5x import adafactor, models, train_state, trainer
        from t5x.examples.t5 import network

        config = network.T5Config(dropout_rate=dropout, mlp_activations=("gelu", "linear"), **sizes)
        vocabulary = seqio.PassThroughVocabulary(sizes["vocab_size"], eos_id=1)
        rules = adafactor.standard_logical_factor_rules()
        optimizer = adafactor.Adafactor(decay_rate=0.8, logical_factor_rules=rules)
        model = models.EncoderDecoderModel(
            network.Transformer(config),
            vocabulary,
            vocabulary,
            optimizer,
            z_loss=1e-4,
            loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
        )
        shapes = dict.fromkeys(
            ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens"), (1, 8)
        )
        variables = model.get_initial_variables(jax.random.key(0), shapes)
        variables = {**variables, "params": our_params(sizes, weights)}
        self._state = train_state.FlaxOptimTrainState.create(optimizer, variables)
        self._key = jax.random.key(0) if dropout else None
        self._train = jax.jit(
            functools.partial(
                trainer.train_with_lr,
                learning_rate=LEARNING_RATE,
                model=model,
                num_microbatches=None,
            ),
            donate_argnums=0,
        )

    def _step(self, batch: Batch) -> float:
        self._state, metrics = self._train(self._state, batch, dropout_rng=self._key)
        return float(metrics["cross_ent_loss"].compute())


COMPETITORS = {"ours": Ours, "transformers": Transformers, "t5x": T5X}
