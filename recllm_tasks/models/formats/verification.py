"""Verification of a conversion: both checkpoints give the same log-probabilities.

Our network reads both. If transformers is installed, its class of the model reads the Hugging Face
side, so that neither a transposed matrix nor what we take that class to do can be wrong in both.
"""

import importlib
import importlib.util
import math
import os
from typing import NamedTuple

import numpy as np

from recllm_tasks.models.formats.checkpoint import Source
from recllm_tasks.models.formats.parameters import shapes_of
from recllm_tasks.models.formats.scores import token_scores

# Largest allowed difference of a token's log-probability, relative if that is below -1. A different
# order of additions makes about 1e-5; a wrong matrix makes far more.
TOLERANCE = 1e-3

# torch holds a whole model, briefly more than one; it is used only if this many copies fit.
_COPIES_IN_MEMORY = 3


class Difference(NamedTuple):
    """How two checkpoints differ on the same prompts.

    Attributes:
      largest: largest difference of a token's log-probability, relative if that is below -1.
      mean_score: mean log-probability of a token in the source.
      tokens: number of tokens compared.
      readers: the programs that read the source and the target.
    """

    largest: float
    mean_score: float
    tokens: int
    readers: tuple[str, str]

    @property
    def is_small(self) -> bool:
        return self.largest <= TOLERANCE  # and not NaN


def compare(
    source: Source,
    made: Source,
    formats: tuple[str, str],
    inputs_BxL: np.ndarray,
    targets_BxQ: np.ndarray,
    dtype: np.dtype,
) -> Difference:
    """Scores the targets with both checkpoints.

    Args:
      source, made: the original checkpoint, and the converted one.
      formats: their formats.
      inputs_BxL, targets_BxQ: tokens; 0 is padding.
      dtype: the dtype of `made`, to which the parameters of `source` are rounded first.
    """
    scores, readers = [], []
    for checkpoint, format in zip((source, made), formats):
        reader = "torch" if format == "hf" and _torch_fits(checkpoint) else "our network"
        score = _torch_scores if reader == "torch" else token_scores
        scores.append(score(checkpoint, inputs_BxL, targets_BxQ, dtype))
        readers.append(reader)
    real = targets_BxQ > 0
    theirs, ours = (score[real] for score in scores)
    differences = np.abs(theirs - ours) / np.maximum(1, np.abs(theirs))
    return Difference(float(differences.max()), float(theirs.mean()), int(real.sum()), (*readers,))


def _torch_fits(source: Source) -> bool:
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        return False
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    numbers = sum(math.prod(shape) for shape in shapes_of(source.config).values())
    return _COPIES_IN_MEMORY * 4 * numbers <= memory


def _torch_scores(
    source: Source, inputs_BxL: np.ndarray, targets_BxQ: np.ndarray, dtype: np.dtype
) -> np.ndarray:
    torch, transformers = map(importlib.import_module, ("torch", "transformers"))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        source.where, dtype=getattr(torch, dtype.name), local_files_only=True
    )
    model = model.float().eval()
    shifted = np.pad(targets_BxQ, ((0, 0), (1, 0)))[:, :-1]
    with torch.no_grad():
        logits_BxQxV = model(
            input_ids=torch.tensor(inputs_BxL, dtype=torch.int64),
            attention_mask=torch.tensor(inputs_BxL > 0),
            decoder_input_ids=torch.tensor(shifted, dtype=torch.int64),
        ).logits
        scores_BxQxV = torch.log_softmax(logits_BxQxV, dim=-1).numpy()
    scores_BxQ = np.take_along_axis(scores_BxQxV, targets_BxQ[..., None], axis=-1)[..., 0]
    return np.where(targets_BxQ > 0, scores_BxQ, 0.0)
