import numpy as np
import pyarrow as pa
import pytest

from recllm_tasks.data import negatives
from recllm_tasks.data.sequences import Sequences
from recllm_tasks.errors import UserError


def sequences_of(*rows, users=None):
    return Sequences(
        users=pa.chunked_array([users or [f"u{i}" for i in range(len(rows))]]),
        offsets=np.cumsum([0] + [len(row) for row in rows]),
        items=np.concatenate(rows).astype(np.int32),
        ratings=np.zeros(sum(map(len, rows)), np.float32),
    )


SEQUENCES = sequences_of([0, 1, 2], [2, 3, 4, 5], [5, 0, 1])
COUNTS = np.array([1, 2, 3, 4, 5, 6, 0])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_never_an_item_of_the_whole_sequence(split):
    drawn = negatives.draw_negatives(SEQUENCES, COUNTS, 0, split)
    assert drawn.shape == (3, 99)
    assert drawn.dtype == np.int32
    for number in range(3):
        own = SEQUENCES.items[SEQUENCES.of_split(number, "test")]
        assert set(drawn[number]) == set(range(6)) - set(own)


def test_draws_differ_by_split_seed_and_user():
    draws = [
        negatives.draw_negatives(SEQUENCES, COUNTS, seed, split)
        for seed in (0, 1)
        for split in ("validation", "test")
    ]
    assert len({draw[0].tobytes() for draw in draws}) == 4
    twins = sequences_of([0, 1, 2], [0, 1, 2])
    first, second = negatives.draw_negatives(twins, COUNTS, 0, "test")
    assert list(first) != list(second)


def test_draws_do_not_depend_on_the_other_users():
    alone = sequences_of([2, 3, 4, 5], users=["u1"])
    whole = negatives.draw_negatives(SEQUENCES, COUNTS, 0, "test")
    np.testing.assert_array_equal(negatives.draw_negatives(alone, COUNTS, 0, "test")[0], whole[1])


def test_user_who_has_everything_is_named():
    everything_that_trains = np.array([1, 1, 1, 0])
    with pytest.raises(UserError, match=r"'tiny': got user 'u1' \(1 such users in all\)"):
        negatives.check_enough_items(
            "tiny", sequences_of([0, 1, 3], [2, 0, 1]), everything_that_trains
        )
    negatives.check_enough_items("tiny", sequences_of([0, 1, 2]), np.array([1, 1, 1, 1]))
