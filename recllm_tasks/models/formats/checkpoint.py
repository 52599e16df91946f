"""What every format gives and takes: a checkpoint whose parameters are moved one at a time.

Paths are those of our network's tree, such as `encoder/layers_0/mlp/wo/kernel`, which are T5X's.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from recllm_tasks.models.config import T5Config

# Takes (path, array); the array has the shape of our parameter.
Write = Callable[[str, np.ndarray], None]


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint on disk, its names and shapes checked.

    Attributes:
      where: for messages.
      config: sizes of the network.
      step: of its training, None where the format does not keep one.
      read: the array of a path, in the dtype that is stored.
      vocabulary: the SentencePiece file that lies beside it, if there is one.
    """

    where: str
    config: T5Config
    step: int | None
    read: Callable[[str], np.ndarray]
    vocabulary: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """What is written.

    Attributes:
      folder: exists, and gets its final name from the caller.
      config: sizes of the network.
      dtype: of the stored parameters: float32 or bfloat16.
      step: of the training.
    """

    folder: pathlib.Path
    config: T5Config
    dtype: np.dtype
    step: int
