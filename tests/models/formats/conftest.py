"""Folders of Hugging Face's T5 1.1 with random weights."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers

from recllm_tasks.models.formats.checkpoint import Source
from recllm_tasks.models.formats.parameters import shapes_of

# Wide enough that no two sides of a matrix are equal, so that nothing transposed fits by chance.
TINY = {"emb_dim": 24, "num_heads": 4, "head_dim": 8, "mlp_dim": 40, "num_decoder_layers": 3}


@pytest.fixture(scope="session")
def hf_model(make_pair):
    """(transformers' model, our network, our parameters) of the same random weights."""
    return make_pair(seed=3, **TINY)


@pytest.fixture(scope="session")
def hf_folder(hf_model, tmp_path_factory) -> pathlib.Path:
    """What `save_pretrained` makes of it; not to be written to."""
    folder = tmp_path_factory.mktemp("hf") / "model"
    hf_model[0].save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def parameters_of() -> Callable[[Source], dict[str, np.ndarray]]:
    return lambda source: {path: source.read(path) for path in shapes_of(source.config)}


@pytest.fixture(scope="session")
def torch_logits() -> Callable[..., np.ndarray]:
    """Logits [B, Q, V] of a folder or a model of transformers, for `batch()`."""

    def logits(model, inputs, shifted):
        if not isinstance(model, torch.nn.Module):
            model = transformers.T5ForConditionalGeneration.from_pretrained(model)
        with torch.no_grad():
            return (
                model.eval()(
                    input_ids=torch.tensor(inputs),
                    attention_mask=torch.tensor(inputs > 0),
                    decoder_input_ids=torch.tensor(shifted),
                )
                .logits.float()
                .numpy()
            )

    return logits


@pytest.fixture(scope="session")
def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, shifted targets and targets, int [B, L] and [B, Q], with padding."""
    rng = np.random.default_rng(0)
    inputs, outputs = rng.integers(2, 60, (3, 17)), rng.integers(2, 60, (3, 6))
    inputs[1, 9:] = 0
    return inputs, np.pad(outputs, ((0, 0), (1, 0)))[:, :-1], outputs
