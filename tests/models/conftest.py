"""Networks with random weights beside Hugging Face's T5 1.1 with the same weights."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import jax.numpy as jnp
import pytest

from recllm_tasks.models import network
from recllm_tasks.models.hugging_face import from_hugging_face


def _tree(hf, config):
    state = hf.state_dict()
    arrays = from_hugging_face(config, lambda name: state[name].detach().numpy())
    return jax.tree.map(jnp.asarray, arrays)


def _pair(seed=0, sharpness=0.5, **sizes):
    """(Hugging Face model, our module, our parameters) of the same random weights."""
    import torch
    import transformers

    sizes = {"vocab_size": 60, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 48} | sizes
    sizes = {"num_encoder_layers": 2, "num_decoder_layers": 2, "dropout_rate": 0.0} | sizes
    config = network.T5Config(**sizes)
    torch.manual_seed(seed)
    hf = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.emb_dim,
            num_heads=config.num_heads,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
        )
    ).eval()
    # transformers 5 ties the head to the table whatever the config says, and then scales by it.
    hf.config.tie_word_embeddings = False
    hf.config.scale_decoder_outputs = False
    hf.lm_head.weight = torch.nn.Parameter(torch.empty(config.vocab_size, config.emb_dim))
    with torch.no_grad():
        hf.lm_head.weight.normal_(0, sharpness)
        for name, weight in hf.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            elif "relative_attention_bias" in name:
                weight.normal_(0, 1)
    return hf, network.Transformer(config), _tree(hf, config)


@pytest.fixture(scope="session")
def make_pair():
    return _pair
