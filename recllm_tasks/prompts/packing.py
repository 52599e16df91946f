"""Examples packed into rows of fixed lengths, or padded to them: what an encoder-decoder reads.

Features are those of `seqio.EncDecFeatureConverter`. SeqIO packs an example into the row at hand
and closes it when the next one does not fit; here some thousand examples are looked at together, so
that little of a row stays empty.

Letters: M examples, R rows, B rows of a batch.
"""

import bisect

import numpy as np

from recllm_tasks.prompts.ragged import Ragged, starts_of

# Features of one packed row, and of one padded row.
PADDED = (
    "encoder_input_tokens",
    "decoder_target_tokens",
    "decoder_input_tokens",
    "decoder_loss_weights",
)
PACKED = (
    *PADDED,
    "encoder_segment_ids",
    "decoder_segment_ids",
    "encoder_positions",
    "decoder_positions",
)


def plan(
    inputs: np.ndarray, targets: np.ndarray, inputs_length: int, targets_length: int
) -> np.ndarray:
    """Chooses rows by best fit: the longest first, each into the fullest row with room for it.

    Args:
      inputs: int64 [M], tokens of each example's inputs, at most `inputs_length`.
      targets: int64 [M], of its targets, at most `targets_length`.
      inputs_length: room of a row.
      targets_length: the same.

    Returns:
      int64 [M], the row of each example; rows are numbered from 0 in the order of their longest
      example.
    """
    # An example is as long as the greater share of a row that it takes.
    share = np.maximum(inputs * targets_length, targets * inputs_length)
    # Open rows by the room that is left in inputs; a row is (room, number).
    rooms: list[tuple[int, int]] = []
    room_of_targets: list[int] = []
    row_of = np.empty(len(inputs), np.int64)
    order = np.argsort(-share, kind="stable").tolist()
    lengths, target_lengths = inputs.tolist(), targets.tolist()
    shortest, shortest_target = min(lengths), min(target_lengths)
    for example in order:
        length, target_length = lengths[example], target_lengths[example]
        at = bisect.bisect_left(rooms, (length, 0))
        while at < len(rooms) and room_of_targets[rooms[at][1]] < target_length:
            at += 1
        if at < len(rooms):
            room, row = rooms.pop(at)
        else:
            room, row = inputs_length, len(room_of_targets)
            room_of_targets.append(targets_length)
        room_of_targets[row] -= target_length
        # A row in which nothing would fit any more is closed, and not looked at again.
        if room - length >= shortest and room_of_targets[row] >= shortest_target:
            bisect.insort(rooms, (room - length, row))
        row_of[example] = row
    return row_of


def pack(
    inputs: Ragged, targets: Ragged, row_of: np.ndarray, inputs_length: int, targets_length: int
) -> dict[str, np.ndarray]:
    """Rows of `PACKED` features, int32 [R, length]; within a row examples keep their order."""
    order = np.argsort(row_of, kind="stable")
    counts = np.bincount(row_of)
    packed = {}
    for name, side, length in (
        ("encoder", inputs, inputs_length),
        ("decoder", targets, targets_length),
    ):
        packed |= _pack_side(name, side.take(order), counts, length)
    tokens = packed["decoder_target_tokens"]
    packed["decoder_input_tokens"] = _shifted(tokens, packed["decoder_positions"])
    packed["decoder_loss_weights"] = (tokens != 0).astype(np.int32)
    return {feature: packed[feature] for feature in PACKED}


def _pack_side(name: str, side: Ragged, counts: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Tokens, segment ids and positions of one side, whose rows are in order, `counts[r]` each."""
    starts = starts_of(counts)
    segments = np.arange(1, starts[-1] + 1) - np.repeat(starts[:-1], counts)
    rows = Ragged(side.values, side.splits[starts])
    kind = "input" if name == "encoder" else "target"
    features = {
        f"{name}_{kind}_tokens": rows.values,
        f"{name}_segment_ids": np.repeat(segments, side.lengths),
        f"{name}_positions": side.places(),
    }
    places = rows.padded_places(length)
    packed = {}
    for feature, values in features.items():
        packed[feature] = np.zeros((len(counts), length), np.int32)
        packed[feature].reshape(-1)[places] = values
    return packed


def pad(
    inputs: Ragged, targets: Ragged, inputs_length: int, targets_length: int
) -> dict[str, np.ndarray]:
    """Rows of `PADDED` features, one an example, int32 [M, length]."""
    tokens = targets.padded(targets_length)
    shifted = np.zeros_like(tokens)
    shifted[:, 1:] = tokens[:, :-1]
    return {
        "encoder_input_tokens": inputs.padded(inputs_length),
        "decoder_target_tokens": tokens,
        "decoder_input_tokens": shifted,
        "decoder_loss_weights": (tokens != 0).astype(np.int32),
    }


def _shifted(tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """What the decoder reads: the token before, and 0 where an example starts."""
    shifted = np.zeros_like(tokens)
    shifted[:, 1:] = np.where(positions[:, 1:] > 0, tokens[:, :-1], 0)
    return shifted
