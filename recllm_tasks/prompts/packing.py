"""Examples packed into rows of fixed lengths, or padded to them: what an encoder-decoder reads.

Features are those of `seqio.EncDecFeatureConverter`. SeqIO packs an example into the row at hand
and closes it when the next one does not fit; here some thousand examples are looked at together, so
that little of a row stays empty.

Letters: M examples, R rows, B rows of a batch.
"""

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
    """Chooses rows one after another, each filled with what leaves least room on both sides.

    A row begins with the largest example that is left, and takes that of the examples for which it
    has room after which the squared room of inputs and targets, each weighted by its side's share
    of all that is to be packed, is smallest, until none fits.

    Our choice: either side can be the one that fills a row, as the targets of masked language
    modelling do. This is norm-based greedy packing (Panigrahy et al. 2011, "Heuristics for Vector
    Bin Packing"). With the published vocabulary and 1,024 + 128 tokens, Toys' ReAT takes 3.9 %
    fewer rows than by best fit of the longest first, RaAT 3.2 %, UT+AT 0.5 %.

    Args:
      inputs: int64 [M], tokens of each example's inputs, at most `inputs_length`.
      targets: int64 [M], of its targets, at most `targets_length`.
      inputs_length: room of a row.
      targets_length: the same.

    Returns:
      int64 [M], the row of each example; rows are numbered from 0, the first to be filled first.
    """
    # How many rows each side would fill alone. No dot products: every host has to choose alike.
    share, target_share = inputs.sum() / inputs_length, targets.sum() / targets_length
    size = inputs * (share / inputs_length) + targets * (target_share / targets_length)
    weight, target_weight = share / inputs_length**2, target_share / targets_length**2
    # What is in no row yet, the largest first. Whole numbers, which floats hold exactly.
    left = np.argsort(-size, kind="stable")
    lengths, target_lengths = inputs[left].astype(float), targets[left].astype(float)
    row_of = np.empty(len(left), np.int64)
    row = 0
    while len(left):
        taken = [0]
        room, target_room = inputs_length - lengths[0], targets_length - target_lengths[0]
        fits = 1 + np.flatnonzero((lengths[1:] <= room) & (target_lengths[1:] <= target_room))
        after, target_after = room - lengths[fits], target_room - target_lengths[fits]
        while len(fits):
            best = (weight * after * after + target_weight * target_after * target_after).argmin()
            taken.append(fits[best])
            used, target_used = room - after[best], target_room - target_after[best]
            room, target_room = after[best], target_after[best]
            after, target_after = after - used, target_after - target_used
            after[best] = -1
            still = (after >= 0) & (target_after >= 0)
            fits, after, target_after = fits[still], after[still], target_after[still]
        row_of[left[taken]] = row
        row += 1
        others = np.ones(len(left), bool)
        others[taken] = False
        left, lengths, target_lengths = left[others], lengths[others], target_lengths[others]
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
