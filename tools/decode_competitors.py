"""What the decoding benchmarks compare: beam searches over the same weights and prompts.

Each competitor has `available()`, `flops(work, length)` of one user, and `run(prompts)`, int32 [B,
L] padded with 0; `run` of a `comparable` one returns log-probabilities by item: see `_beams`.
"""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
from side_by_side import load_transformers, our_params

from recllm_tasks.errors import UserError
from recllm_tasks.t5x_bridge import imports

BEAMS = 20
NEW_TOKENS = 8


@dataclasses.dataclass(frozen=True)
class Work:
    """What all competitors are given; `prompts` maps a length to int32 tokens [users, length]."""

    sizes: dict
    weights: str  # a folder that transformers wrote
    prompts: dict[int, np.ndarray]
    items: list[tuple[int, ...]]  # tokens of each item, without EOS
    threads: int


def _beams(tokens, scores) -> list[dict]:
    """For each user the log-probability of each hypothesis, by its tokens up to EOS."""
    return [
        {tuple(t[: t.index(1) + 1]): s for t, s in zip(own, row) if 1 in t and s > -1e6}
        for own, row in zip(tokens, scores)
    ]


def matmul_flops(work: Work, length: int, rows: int, whole_logits: bool = True) -> float:
    """Of one user: encoder, cross keys and values once, `rows` decoder positions."""
    s = work.sizes
    joined = s["num_heads"] * s["head_dim"]
    project, mlp = 2 * s["emb_dim"] * joined, 3 * 2 * s["emb_dim"] * s["mlp_dim"]
    encoder = length * (4 * project + mlp + 2 * 2 * length * joined)
    cross = length * 2 * project
    step = 6 * project + mlp + 2 * 2 * length * joined
    logits = 2 * s["emb_dim"] * s["vocab_size"] if whole_logits else 0
    return (
        s["num_encoder_layers"] * encoder
        + s["num_decoder_layers"] * (cross + rows * step)
        + rows * logits
    )


class Ours:
    """`beam_search` over the trie of the items."""

    over, comparable = "vocabulary", True

    @staticmethod
    def available() -> bool:
        return True

    @classmethod
    def flops(cls, work: Work, length: int) -> float:
        steps = max(map(len, work.items)) + 1
        return matmul_flops(work, length, 1 + (steps - 1) * BEAMS, cls.over == "vocabulary")

    def __init__(self, work: Work):
        import jax

        from recllm_tasks.models import network
        from recllm_tasks.models.beam_search import beam_search
        from recllm_tasks.models.trie import Trie

        self._params = our_params(work.sizes, work.weights)
        self._model = network.Transformer(network.T5Config(dropout_rate=0.0, **work.sizes))
        self._trie = jax.device_put(Trie.build(work.items))
        self._search = beam_search

    def run(self, prompts: np.ndarray) -> np.ndarray:
        beams = self._search(
            self._model,
            self._params,
            prompts,
            self._trie,
            num_beams=BEAMS,
            normalize_over=self.over,
        )
        return _beams(beams.tokens_BxKxT.tolist(), beams.log_probs_BxK.tolist())


class OursOverCatalog(Ours):
    """The same, with probabilities over what the trie allows."""

    over, comparable = "catalog", False


class Transformers:
    """Hugging Face's `generate` in torch, with the same trie."""

    comparable = True

    @staticmethod
    def available() -> bool:
        return True

    @staticmethod
    def flops(work: Work, length: int) -> float:
        return Ours.flops(work, length)

    def __init__(self, work: Work):
        import torch

        torch.set_num_threads(work.threads)
        self._model = load_transformers(work.weights)
        self._torch = torch
        self._steps = max(map(len, work.items)) + 1
        self._allowed = {}
        for item in work.items:
            for n, token in enumerate((*item, 1)):
                self._allowed.setdefault(item[:n], set()).add(token)
        self._allowed = {prefix: sorted(tokens) for prefix, tokens in self._allowed.items()}

    def run(self, prompts: np.ndarray) -> np.ndarray:
        inputs = self._torch.tensor(prompts, dtype=self._torch.long)
        with self._torch.inference_mode():
            out = self._model.generate(
                inputs,
                attention_mask=(inputs > 0).long(),
                num_beams=BEAMS,
                num_return_sequences=BEAMS,
                max_new_tokens=self._steps,
                length_penalty=0.0,
                early_stopping="never",
                do_sample=False,
                eos_token_id=1,
                pad_token_id=0,
                prefix_allowed_tokens_fn=lambda _, t: self._allowed.get(tuple(t.tolist())[1:], [1]),
                output_scores=True,
                return_dict_in_generate=True,
            )
        tokens = out.sequences[:, 1:].reshape(len(prompts), BEAMS, -1)
        return _beams(tokens.tolist(), out.sequences_scores.reshape(len(prompts), BEAMS).tolist())


class T5X:
    """T5X's `predict_batch_with_aux`, its own network and beam search, `NEW_TOKENS` tokens."""

    comparable = False

    @staticmethod
    def available() -> bool:
        try:
            imports.prepare()
        except UserError:
            return False
        return True

    @staticmethod
    def flops(work: Work, length: int) -> float:
        return matmul_flops(work, length, 1 + (NEW_TOKENS - 1) * BEAMS)

    def __init__(self, work: Work):
        imports.prepare()
        import jax
        import seqio
        from t5x import decoding, models
        from t5x.examples.t5 import network

        config = network.T5Config(
            dropout_rate=0.0, mlp_activations=("gelu", "linear"), **work.sizes
        )
        vocabulary = seqio.PassThroughVocabulary(work.sizes["vocab_size"], eos_id=1)
        model = models.EncoderDecoderModel(
            network.Transformer(config), vocabulary, vocabulary, None, decoding.beam_search
        )
        self._params, self._jax = our_params(work.sizes, work.weights), jax
        self._predict = jax.jit(
            lambda params, batch: model.predict_batch_with_aux(
                params,
                batch,
                decoder_params={"alpha": 0.0},
                num_decodes=BEAMS,
                return_all_decodes=True,
            )
        )

    def run(self, prompts: np.ndarray) -> None:
        batch = {
            "encoder_input_tokens": prompts,
            "decoder_input_tokens": np.zeros((len(prompts), NEW_TOKENS), np.int32),
        }
        self._jax.block_until_ready(self._predict(self._params, batch))


class CTranslate2:
    """CTranslate2's beam search, without a trie, `NEW_TOKENS` tokens."""

    comparable = False

    @staticmethod
    def available() -> bool:
        return importlib.util.find_spec("ctranslate2") is not None

    @staticmethod
    def flops(work: Work, length: int) -> float:
        return matmul_flops(work, length, 1 + (NEW_TOKENS - 1) * BEAMS)

    def __init__(self, work: Work):
        import ctranslate2

        self._words = ["<pad>", "</s>", "<unk>"]
        self._words += [f"t{i}" for i in range(3, work.sizes["vocab_size"])]
        folder = f"{work.weights}/ctranslate2"
        _write_ctranslate2(work.weights, folder, self._words)
        self._translator = ctranslate2.Translator(
            folder, compute_type="float32", intra_threads=work.threads
        )

    def run(self, prompts: np.ndarray) -> None:
        self._translator.translate_batch(
            [[self._words[t] for t in row] for row in prompts],
            beam_size=BEAMS,
            num_hypotheses=BEAMS,
            max_decoding_length=NEW_TOKENS,
            min_decoding_length=NEW_TOKENS,
            length_penalty=0,
            return_scores=True,
        )


def _write_ctranslate2(weights: str, folder: str, words: list[str]) -> None:
    """Converts the model; its converter's command wants a tokenizer, which random weights lack."""
    from ctranslate2.converters import transformers as converters

    spec = converters.T5Loader().get_model_spec(load_transformers(weights))
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = (
        words[0],
        words[1],
        words[2],
    )
    spec.config.decoder_start_token = words[0]
    spec.config.add_source_eos = False
    spec.validate()
    spec.optimize(quantization="float32")
    Path(folder).mkdir()
    spec.save(folder)


COMPETITORS = {
    "ours": Ours,
    "ours, catalog": OursOverCatalog,
    "transformers": Transformers,
    "t5x": T5X,
    "ctranslate2": CTranslate2,
}
