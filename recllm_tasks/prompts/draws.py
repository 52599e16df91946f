"""The numbers of `tf.random.stateless_*` and of SeqIO's seeds, for many examples in one call.

TensorFlow draws for one seed at a time; a batch of examples has one seed an example. Here the same
Philox generator (Salmon et al. 2011, 4x32 with 10 rounds, as in TensorFlow's `philox_random.h`)
runs over all of them at once in NumPy. Every function gives, bit by bit, what TensorFlow gives for
each seed on its own, which a test holds.

Letters: B examples. Seeds are integers [B, 2], int32 or int64.
"""

import numpy as np

from recllm_tasks.prompts.ragged import Ragged

_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)

# What TensorFlow scrambles a stateless seed with (`stateless_random_ops_v2_util.h`).
_SCRAMBLE_KEY = np.uint64(0x3EC8F720), np.uint64(0x02461E29)

# TensorFlow's graph-level seed where none is set, one half of every tf.data seed; and what the
# other half is taken modulo (`random_seed.py`).
_GRAPH_SEED, _SEED_MODULUS = 87654321, 2**31 - 1


def _philox(key: tuple, counter: tuple) -> np.ndarray:
    """Blocks of four 32-bit words, uint64 [..., 4], of two key and four counter words."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product_1 >> _SHIFT) ^ c1 ^ k0,
            product_1 & _LOW,
            (product_0 >> _SHIFT) ^ c3 ^ k1,
            product_0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1)


class Generators:
    """One generator an example, as TensorFlow makes them of stateless seeds."""

    def __init__(self, seeds: np.ndarray):
        halves = np.asarray(seeds).astype(np.int64).view(np.uint64)
        low, high = halves & _LOW, halves >> _SHIFT
        self._words = _philox(_SCRAMBLE_KEY, (low[:, 0], high[:, 0], low[:, 1], high[:, 1]))

    def words(self, lengths: np.ndarray) -> Ragged:
        """The first words of each generator, uint64 values below 2^32; rounded up to fours."""
        blocks = -(-lengths // 4)
        counts = Ragged.of_lengths(np.zeros(0), blocks)
        place = counts.places().astype(np.uint64)
        # Of each example two words of key, two of counter; the counter's low half counts blocks.
        k0, k1, c2, c3 = (np.repeat(self._words[:, i], blocks) for i in range(4))
        values = _philox((k0, k1), (place & _LOW, place >> _SHIFT, c2, c3))
        return Ragged(values.reshape(-1), counts.splits * 4)

    def first(self, num: int) -> np.ndarray:
        """The first `num` words of each, uint64 [B, num]."""
        blocks = np.arange(-(-num // 4), dtype=np.uint64)
        k0, k1, c2, c3 = (self._words[:, i, np.newaxis] for i in range(4))
        values = _philox((k0, k1), (blocks & _LOW, blocks >> _SHIFT, c2, c3))
        return values.reshape(len(self._words), -1)[:, :num]


def _pairs(words: np.ndarray) -> np.ndarray:
    """64-bit numbers of pairs of words, the low one first, uint64 [..., n / 2]."""
    return words[..., ::2] | (words[..., 1::2] << _SHIFT)


def uniform_bits(seeds: np.ndarray, lengths: np.ndarray) -> Ragged:
    """The 23 random bits of each float of `stateless_uniform([lengths[b]], seeds[b])`, uint64.

    They order as the floats do: the float is the bits times 2^-23.
    """
    words = Generators(seeds).words(lengths)
    rows = Ragged.of_lengths(np.zeros(0), lengths)
    # Of each example the first `lengths[b]` words of its blocks.
    kept = rows.places() + np.repeat(words.splits[:-1], lengths)
    return Ragged(words.values[kept] & np.uint64(0x7FFFFF), rows.splits)


def uniform(seeds: np.ndarray) -> np.ndarray:
    """`stateless_uniform([], seeds[b])`, float32 [B]."""
    bits = Generators(seeds).first(1)[:, 0] & np.uint64(0x7FFFFF)
    return (bits.astype(np.float64) * 2.0**-23).astype(np.float32)


def uniform_int32(seeds: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """`stateless_uniform([], seeds[b], low[b], high[b], tf.int32)`, int64 [B]."""
    words = Generators(seeds).first(1)[:, 0]
    return low + (words % np.asarray(high - low, np.uint64)).astype(np.int64)


def uniform_int64(seeds: np.ndarray, num: int, high: np.ndarray) -> np.ndarray:
    """`stateless_uniform([num], seeds[b], 0, high[b], tf.int64)`, int64 [B, num]."""
    numbers = _pairs(Generators(seeds).first(2 * num))
    return (numbers % np.asarray(high, np.uint64)[:, np.newaxis]).astype(np.int64)


def split(seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two rows of `stateless_split(seeds[b], 2)`, each [B, 2] in the type of `seeds`."""
    if seeds.dtype == np.int32:
        words = Generators(seeds).first(4).astype(np.uint32).view(np.int32)
        return words[:, :2], words[:, 2:]
    words = _pairs(Generators(seeds).first(8)).view(np.int64)
    return words[:, :2], words[:, 2:]


def fold_in(seeds: np.ndarray, salt: int) -> np.ndarray:
    """`stateless_fold_in(seeds[b], salt)`, int32 [B, 2]."""
    words = Generators(seeds).first(1).astype(np.uint32).view(np.int32)
    return np.concatenate([words, np.full_like(words, salt)], axis=1)


def random_dataset(seed: int, places: np.ndarray) -> np.ndarray:
    """Elements number `places` of `tf.data.Dataset.random(seed)`, int64 of the same shape."""
    places = np.asarray(places)
    blocks, lanes = np.divmod(places.astype(np.uint64), np.uint64(4))
    op_seed = np.full_like(blocks, seed % _SEED_MODULUS)
    words = _philox(
        (np.uint64(_GRAPH_SEED), np.uint64(0)),
        (blocks & _LOW, blocks >> _SHIFT, op_seed, np.zeros_like(blocks)),
    )
    return np.take_along_axis(words, lanes.astype(np.int64)[..., np.newaxis], -1)[..., 0].astype(
        np.int64
    )


def map_seeds(first: int, places: np.ndarray) -> np.ndarray:
    """SeqIO's seeds of examples number `places` in a step whose first map seed is `first`.

    Returns:
      int64 [B, 2]: what `seqio.map_over_dataset(num_seeds=1)` hands to the function.
    """
    return np.stack([random_dataset(first + half, places) for half in (0, 1)], axis=1)


def choices(seed: int, rates: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Which dataset `tf.data.Dataset.sample_from_datasets(…, rates, seed)` asks at `places`.

    Args:
      seed: of the sampling.
      rates: float [T], each above 0.
      places: int64 [B], numbers of elements.

    Returns:
      int64 [B], below T.
    """
    if len(rates) == 1:
        return np.zeros(len(places), np.int64)
    drawn = random_dataset(seed, 2 * np.asarray(places)[:, np.newaxis] + np.arange(2))
    words = Generators(drawn).first(2)
    mantissa = ((words[:, 0] & np.uint64(0xFFFFF)) << _SHIFT) | words[:, 1]
    logits = np.log(np.asarray(rates, np.float32)).astype(np.float64)
    cumulative = np.cumsum(np.exp(logits - logits.max()))
    wanted = mantissa.astype(np.float64) * 2.0**-52 * cumulative[-1]
    return np.searchsorted(cumulative, wanted, side="right")


def smallest(bits: Ragged, num: np.ndarray) -> np.ndarray:
    """bool, one a value of `bits`: whether it is among the `num[b]` smallest of its row.

    As `tf.argsort` does, of equal values the first counts as the smaller one.
    """
    if not len(bits.values):
        return np.zeros(0, bool)
    # One number of row, bits and place: sorting plain numbers is several times as fast as argsort.
    place_bits = np.uint64(max(1, int(bits.lengths.max()).bit_length()))
    rows = bits.rows.astype(np.uint64) << (np.uint64(23) + place_bits)
    ordered = np.sort(rows | (bits.values << place_bits) | bits.places().astype(np.uint64))
    place = (ordered & ((np.uint64(1) << place_bits) - np.uint64(1))).astype(np.int64)
    taken = bits.places() < np.repeat(num, bits.lengths)
    starts = np.repeat(bits.splits[:-1], bits.lengths)
    chosen = np.zeros(len(bits.values), bool)
    chosen[(starts + place)[taken]] = True
    return chosen


def permutation(seed: np.ndarray, size: int) -> np.ndarray:
    """The numbers below `size` in random order, int64 [size], of one seed [1, 2]."""
    return np.argsort(uniform_bits(seed, np.array([size])).values, kind="stable")
