"""What accelerators can do by their data sheets, and the memory that training takes of them.

It imports the standard library alone, so that `recllm doctor` can.
"""

import re
from typing import Any, NamedTuple


class Chip(NamedTuple):
    """A device as JAX counts them.

    Attributes:
      kind: words of its `device_kind`.
      memory: in GB.
      peak: of its matrix units in bfloat16, in TFLOP/s, without sparsity.
      source: where both numbers are published.
    """

    kind: str
    memory: float
    peak: float
    source: str


def _nvidia(kind: str, memory: float, peak: float) -> Chip:
    return Chip(kind, memory, peak, f"NVIDIA's data sheet of the {kind.split('-')[0]}")


def _google(kinds: tuple[str, ...], page: str, memory: float, peak: float) -> list[Chip]:
    return [Chip(kind, memory, peak, f"Google Cloud's page on TPU {page}") for kind in kinds]


# The first one whose words a device's kind has, so that longer names come first. NVIDIA's sheets
# of Ada, Hopper and Blackwell print the peak with sparsity, which is twice these. Of the TPU v2 and
# v3, JAX counts cores, two to a chip. GPUs before Ampere (T4, V100) are not listed: their matrix
# units have no bfloat16.
CHIPS = (
    *_google(("TPU v2",), "v2", 8, 22.5),
    *_google(("TPU v3",), "v3", 16, 61.5),
    *_google(("TPU v4",), "v4", 32, 275),
    *_google(("TPU v5 lite", "TPU v5e"), "v5e", 16, 197),
    *_google(("TPU v5", "TPU v5p"), "v5p", 95, 459),
    *_google(("TPU v6 lite", "TPU v6e"), "v6e", 32, 918),
    _nvidia("A100-SXM4-40GB", 40, 312),
    _nvidia("A100-PCIE-40GB", 40, 312),
    _nvidia("A100", 80, 312),
    Chip("A10G", 24, 70, "Amazon's data sheet of the A10G"),
    _nvidia("L40S", 48, 362),
    _nvidia("L40", 48, 181),
    _nvidia("L4", 24, 121),
    _nvidia("H200 NVL", 141, 835),
    _nvidia("H200", 141, 989),
    _nvidia("H100 NVL", 94, 835),
    _nvidia("H100 PCIe", 80, 756),
    _nvidia("H100", 80, 989),
    _nvidia("B200", 180, 2250),
)

# Share of a device's memory; the rest is left to the runtime and to fragmentation.
USABLE = 0.9

# Of a chunk of logits and what is made of them.
_LOSS_BYTES = 1e9


def chip_of(device_kind: str) -> Chip | None:
    """What is published of a device; None if it is not listed, as processors are not."""
    words = (rf"\b{re.escape(chip.kind)}\b" for chip in CHIPS)
    return next((c for c, w in zip(CHIPS, words) if re.search(w, device_kind, re.IGNORECASE)), None)


def num_parameters(config: Any) -> int:
    """Of the large matrices of a `T5Config`."""
    joined = config.num_heads * config.head_dim
    project = config.emb_dim * joined
    mlp = (len(config.mlp_activations) + 1) * config.emb_dim * config.mlp_dim
    tables = 1 if config.logits_via_embedding else 2
    return (
        config.num_encoder_layers * (4 * project + mlp)
        + config.num_decoder_layers * (8 * project + mlp)
        + tables * config.vocab_size * config.emb_dim
    )


def training_bytes(
    config: Any, rows: int, inputs: int, targets: int, *, remat: bool, model_parallel: int = 1
) -> float:
    """An estimate of the memory of a device in training with Adafactor and bfloat16 activations.

    Within a fifth of what the TPU compiler finds for Base and XL (a test compares them).

    Args:
      config: a `T5Config`.
      rows: of a batch, on each copy of the parameters.
      inputs: tokens of a row.
      targets: the same.
      remat: see `T5Config.remat`.
      model_parallel: devices that share one copy of the parameters.
    """
    joined, heads = config.num_heads * config.head_dim, config.num_heads

    def kept(attended: int) -> float:
        """Bytes that a layer keeps of a token; its own attention reads `attended` tokens."""
        split = 12 * joined + 3 * heads * attended + 10 * config.mlp_dim
        return 14 * config.emb_dim + split / model_parallel

    of_encoder = inputs * kept(inputs)
    of_decoder = targets * kept(inputs + targets)
    if remat:
        tokens = config.num_encoder_layers * inputs + config.num_decoder_layers * targets
        # What enters each layer, and one layer twice: its values and their gradients.
        of_row = 2 * config.emb_dim * tokens + 2 * max(of_encoder, of_decoder)
    else:
        of_row = config.num_encoder_layers * of_encoder + config.num_decoder_layers * of_decoder
    # Parameters and gradients.
    state = 8 * num_parameters(config) / model_parallel
    return state + rows * of_row + min(_LOSS_BYTES, 8 * rows * targets * config.vocab_size)


def largest_batch(
    config: Any,
    memory: float,
    inputs: int,
    targets: int,
    *,
    remat: bool,
    model_parallel: int = 1,
) -> int:
    """The most rows, a power of two up to 64, that fit into so many bytes; 0 if none do."""
    rows = 64
    while rows and memory * USABLE < training_bytes(
        config, rows, inputs, targets, remat=remat, model_parallel=model_parallel
    ):
        rows //= 2
    return rows
