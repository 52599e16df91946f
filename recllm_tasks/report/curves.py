"""Learning curves: the scalars in a run folder's TensorBoard event files.

Event files are TFRecords of `Event` messages. They are parsed here without TensorFlow, whose import
would take longer than the rest of a small report.
"""

import math
import pathlib
import struct
from collections.abc import Iterator, Mapping

from recllm_tasks.errors import UserError
from recllm_tasks.report.fields import ADVICE, clean

PATTERN = "events.out.tfevents.*"
MAX_BYTES = 512 * 2**20

# By tag, (step, value) in the order of steps.
Curves = Mapping[str, list[tuple[int, float]]]


def load(folder: pathlib.Path) -> Curves:
    """The scalars of a run's own event files, by tag; of a step written twice the later value.

    A run that was stopped and went on wrote the steps after its last checkpoint twice, and the last
    record of a file may be half written.

    Raises:
      UserError: a file that holds no events, named.
    """
    curves: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob(PATTERN)):
        if not path.is_file():
            continue
        for step, tag, value in _scalars(path):
            if math.isfinite(value):
                curves.setdefault(clean(tag), {})[step] = value
    return {tag: sorted(values.items()) for tag, values in sorted(curves.items())}


def _scalars(path: pathlib.Path) -> Iterator[tuple[int, str, float]]:
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto import event_pb2

    try:
        for record in _records(path):
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                number = _number(value)
                if number is not None:
                    yield event.step, value.tag, number
    except (DecodeError, ValueError, struct.error) as error:
        raise UserError(
            f"events for '{path}': got {clean(str(error))}, expected TensorBoard's events; {ADVICE}"
        ) from error


def _number(value) -> float | None:
    """A scalar as either version of TensorBoard's format writes it, or None for anything else."""
    if value.HasField("simple_value"):
        return value.simple_value
    tensor = value.tensor
    if not value.HasField("tensor") or tensor.tensor_shape.dim:
        return None
    if len(tensor.float_val) == 1:
        return tensor.float_val[0]
    if len(tensor.double_val) == 1:
        return tensor.double_val[0]
    form = {1: "<f", 2: "<d"}.get(tensor.dtype)  # DT_FLOAT, DT_DOUBLE
    content = tensor.tensor_content
    return (
        struct.unpack(form, content)[0] if form and len(content) == struct.calcsize(form) else None
    )


def _records(path: pathlib.Path) -> Iterator[bytes]:
    """Records of a TFRecord file: length (8 bytes), checksum (4), content, checksum (4)."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes, more than {MAX_BYTES:,}")
    content, place = path.read_bytes(), 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        end = place + 12 + length + 4
        if end > len(content):
            if place == 0:
                raise ValueError(f"a first record of {length:,} bytes in {len(content):,}")
            return
        yield content[place + 12 : end - 4]
        place = end
