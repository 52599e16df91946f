"""Names of T5 1.1's parameters in T5X, which are also ours, and in Hugging Face transformers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from recllm_tasks.models.config import T5Config

_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}

_LAYERS = {
    "encoder": (
        ("pre_attention_layer_norm", "attention", "SelfAttention"),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ),
    "decoder": (
        ("pre_self_attention_layer_norm", "self_attention", "SelfAttention"),
        ("pre_cross_attention_layer_norm", "encoder_decoder_attention", "EncDecAttention"),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ),
}


def parameter_names(config: T5Config) -> dict[str, tuple[str, bool]]:
    """T5X's path of each parameter → (Hugging Face's name, whether its matrix is transposed)."""
    names = {"token_embedder/embedding": ("shared.weight", False)}
    if not config.logits_via_embedding:
        names["decoder/logits_dense/kernel"] = ("lm_head.weight", True)
    mlp = ["wi", "wo"] if len(config.mlp_activations) == 1 else ["wi_0", "wi_1", "wo"]
    counts = {"encoder": config.num_encoder_layers, "decoder": config.num_decoder_layers}
    for stack, layers in _LAYERS.items():
        names[f"{stack}/relpos_bias/rel_embedding"] = (
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            True,
        )
        names[f"{stack}/{stack}_norm/scale"] = (f"{stack}.final_layer_norm.weight", False)
        for number in range(counts[stack]):
            for place, (norm, ours, theirs) in enumerate(layers):
                layer = f"{stack}/layers_{number}"
                other = f"{stack}.block.{number}.layer.{place}"
                names[f"{layer}/{norm}/scale"] = (f"{other}.layer_norm.weight", False)
                kernels = {name: name for name in mlp} if ours == "mlp" else _ATTENTION
                for kernel, its in kernels.items():
                    names[f"{layer}/{ours}/{kernel}/kernel"] = (
                        f"{other}.{theirs}.{its}.weight",
                        True,
                    )
    return names


def from_hugging_face(config: T5Config, read: Callable[[str], np.ndarray]) -> Mapping[str, Any]:
    """Our parameter tree; `read` returns Hugging Face's array of a given name."""
    flat = {
        path: read(name).T if transposed else read(name)
        for path, (name, transposed) in parameter_names(config).items()
    }
    return traverse_util.unflatten_dict(flat, sep="/")
