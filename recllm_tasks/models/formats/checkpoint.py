"""The interface of every format: a checkpoint whose parameters move one at a time.

Paths are those of our network's tree, such as `encoder/layers_0/mlp/wo/kernel`, as in T5X.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from recllm_tasks.models.config import T5Config

# Called with (path, array); the array has our parameter's shape.
Write = Callable[[str, np.ndarray], None]


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint on disk, with checked names and shapes.

    Attributes:
      where: its place, for messages.
      config: sizes of the network.
      step: its training step, or None if the format has none.
      read: returns the array of a path, in the stored dtype.
      vocabulary: the SentencePiece file beside it, if any.
    """

    where: str
    config: T5Config
    step: int | None
    read: Callable[[str], np.ndarray]
    vocabulary: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """A checkpoint to write.

    Attributes:
      folder: an existing folder; the caller gives it its final name.
      config: sizes of the network.
      dtype: dtype of the stored parameters: float32 or bfloat16.
      step: the training step.
    """

    folder: pathlib.Path
    config: T5Config
    dtype: np.dtype
    step: int
