"""Shared by the benchmarks against other libraries: sizes, weights, processes, hardware peak.

Each competitor runs in a separate process, so that its peak memory can be measured, and all take
turns.
"""

import multiprocessing
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recllm_tasks.runs import memory


def _shape(emb_dim: int, mlp_dim: int, layers: int, num_heads: int, head_dim: int) -> dict:
    return {
        "emb_dim": emb_dim,
        "mlp_dim": mlp_dim,
        "num_encoder_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": num_heads,
        "head_dim": head_dim,
    }


# T5 1.1 small, base, large and xl; a tiny one; that of models/ids.gin.
SHAPES = {
    "tiny": _shape(128, 256, 2, 4, 32),
    "compact": _shape(128, 128, 1, 1, 128),
    "small": _shape(512, 1024, 8, 6, 64),
    "base": _shape(768, 2048, 12, 12, 64),
    "large": _shape(1024, 2816, 24, 16, 64),
    "xl": _shape(2048, 5120, 24, 32, 64),
}


def write_weights(sizes: dict, folder: str) -> None:
    """Random weights of a T5 1.1, as transformers saves them."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=sizes["vocab_size"],
        d_model=sizes["emb_dim"],
        num_heads=sizes["num_heads"],
        d_kv=sizes["head_dim"],
        d_ff=sizes["mlp_dim"],
        num_layers=sizes["num_encoder_layers"],
        num_decoder_layers=sizes["num_decoder_layers"],
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    _untie(model)
    model.lm_head.weight.data.normal_(0, 0.2)
    model.save_pretrained(folder)


def load_transformers(folder: str, **config):
    """transformers' model with these weights, in evaluation mode; `config` overrides settings."""
    import torch
    import transformers
    from safetensors.torch import load_file

    model = transformers.T5ForConditionalGeneration.from_pretrained(folder, **config).eval()
    _untie(model)
    head = load_file(Path(folder) / "model.safetensors")["lm_head.weight"]
    model.lm_head.weight = torch.nn.Parameter(head)
    return model


def _untie(model) -> None:
    """Unties the head: transformers 5 ties it regardless of the config, and scales outputs."""
    import torch

    model.config.tie_word_embeddings = False
    model.config.scale_decoder_outputs = False
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))


def our_params(sizes: dict, folder: str) -> Any:
    """The same weights as our network's parameters, on the device."""
    import jax
    from safetensors.numpy import load_file

    from recllm_tasks.models import network
    from recllm_tasks.models.hugging_face import from_hugging_face

    config = network.T5Config(dropout_rate=0.0, **sizes)
    arrays = load_file(Path(folder) / "model.safetensors")
    return jax.device_put(from_hugging_face(config, arrays.__getitem__))


class Worker:
    """A competitor in a separate process; `run(*arguments)` returns what its `run` returns."""

    def __init__(self, make: Callable[..., Any], *arguments):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, arguments, theirs), daemon=True)
        self._process.start()

    def run(self, *arguments) -> Any:
        self._pipe.send(arguments)
        return self._pipe.recv()

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join()


def _serve(make: Callable[..., Any], arguments: tuple, pipe) -> None:
    competitor = make(*arguments)
    while (request := pipe.recv()) is not None:
        pipe.send(competitor.run(*request))


def in_turn(competitors: dict[str, Any], turn: int) -> list[tuple[str, Any]]:
    """The competitors in the order of this round; each round starts with a different one.

    What ran before changes the state of the processor and its caches for the next one.
    """
    order = list(competitors.items())
    start = turn % len(order)
    return order[start:] + order[:start]


def peak_gib() -> float:
    """Peak memory of this process, since `memory.reset_peak` if that was called."""
    return memory.peak_bytes() / 2**30


def matmul_gflops(size: int = 3072) -> float:
    """The hardware peak: a large matmul in torch or XLA, whichever is faster."""
    import time

    import jax
    import torch

    theirs = torch.ones(size, size)
    ours = jax.numpy.ones((size, size))
    multiply = jax.jit(jax.numpy.dot)
    best = 0.0
    for run in (lambda: theirs @ theirs, lambda: multiply(ours, ours).block_until_ready()):
        for _ in range(5):
            start = time.perf_counter()
            run()
            best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best


def processor() -> str:
    """The name of this machine's processor; relative speeds depend on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    fields = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    name = fields.get("model name", platform.machine())
    return f"{name}, family {fields['cpu family']}" if "cpu family" in fields else name
