"""Language models that recommend: SeqIO tasks, training, decoding and honest evaluation.

The public names below are imported on first use, so importing the package does no work. Only
`import recllm_tasks.mixtures` registers tasks.
"""

import importlib
from typing import TYPE_CHECKING

from recllm_tasks import quiet

if TYPE_CHECKING:
    from recllm_tasks.compile_cache import use_compile_cache
    from recllm_tasks.mixtures import register_stored
    from recllm_tasks.preparation import prepare
    from recllm_tasks.prompts.assembly import Prompt
    from recllm_tasks.prompts.batches import unbatch
    from recllm_tasks.prompts.source import SequenceSource
    from recllm_tasks.prompts.templates import Items, Template
    from recllm_tasks.recommender import Recommender

__version__ = "0.1.0"

quiet.silence()

_MODULE_OF = {
    "Items": "prompts.templates",
    "Prompt": "prompts.assembly",
    "Recommender": "recommender",
    "SequenceSource": "prompts.source",
    "Template": "prompts.templates",
    "prepare": "preparation",
    "register_stored": "mixtures",
    "unbatch": "prompts.batches",
    "use_compile_cache": "compile_cache",
}

__all__ = ["Items", "Prompt", "Recommender", "SequenceSource", "Template"]
__all__ += ["prepare", "register_stored", "unbatch", "use_compile_cache"]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
