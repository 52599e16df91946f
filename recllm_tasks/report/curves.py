"""Learning curves: the scalars in a run folder's TensorBoard event files."""

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from recllm_tasks.errors import UserError
from recllm_tasks.runs.fields import ADVICE, clean

PATTERN = "events.out.tfevents.*"
MAX_BYTES = 512 * 2**20

# (step, value) by tag, in the order of steps.
Curves = Mapping[str, list[tuple[int, float]]]


def load(folder: pathlib.Path) -> Curves:
    """The scalars in a run's event files, by tag; the last value of a step that was written twice.

    A resumed run writes the steps after its last checkpoint twice. The last record of a file may be
    incomplete; reading stops at a damaged record, as in TensorBoard.

    Raises:
      UserError: a file holds no events.
    """
    curves: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob(PATTERN)):
        if path.is_file():
            for step, tag, value in _scalars(path):
                if math.isfinite(value):
                    curves.setdefault(clean(tag), {})[step] = value
    return {tag: sorted(values.items()) for tag, values in sorted(curves.items())}


def _scalars(path: pathlib.Path) -> Iterator[tuple[int, str, float]]:
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto import event_pb2
    from tensorboard.compat.tensorflow_stub import errors

    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        for record in _records(path):
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                number = _number(value)
                if number is not None:
                    yield event.step, value.tag, number
    except (DecodeError, errors.DataLossError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"events for '{path}': got {clean(str(error))}, expected TensorBoard's events; {ADVICE}"
        ) from error


def _records(path: pathlib.Path) -> Iterator[bytes]:
    """The serialised events of a file."""
    # TensorBoard's reader without TensorFlow, which takes longer to import than a report to make.
    from tensorboard.compat.tensorflow_stub import errors, pywrap_tensorflow

    reader: Any = pywrap_tensorflow.PyRecordReader_New(str(path))
    num_read = 0
    while True:
        try:
            reader.GetNext()
        except errors.OutOfRangeError:
            return
        except errors.DataLossError:
            if not num_read:
                raise
            return
        num_read += 1
        yield reader.record()


def _number(value) -> float | None:
    """A scalar in either of TensorBoard's formats; None for anything else."""
    from tensorboard.util import tensor_util

    if value.HasField("simple_value"):
        return value.simple_value
    if not value.HasField("tensor") or value.tensor.tensor_shape.dim:
        return None
    array = tensor_util.make_ndarray(value.tensor)
    return float(array) if array.dtype.kind in "fiu" else None
