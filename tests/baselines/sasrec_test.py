import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recllm_tasks.baselines import evaluation, sasrec
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.errors import UserError

SMALL = sasrec.Settings(
    width=16, heads=2, length=8, rows=4, learning_rate=1e-2, epochs=4, patience=4, sampled=32
)


def cyclic_split(num_items: int = 30, num_users: int = 40, longest: int = 12) -> SplitInteractions:
    """Each user goes through the catalog in order, from a start of their own."""

    def record(user, length):
        items = (user * 7 + np.arange(length)).astype(np.int32) % num_items
        return {"user": str(user), "items": items, "ratings": np.full(length, np.nan)}

    lengths = [2 + user % (longest - 1) for user in range(num_users)]
    train = [record(user, length) for user, length in enumerate(lengths)]
    records = [record(user, length + 1) for user, length in enumerate(lengths)]
    return SplitInteractions.from_records(records, train, num_items)


@pytest.mark.parametrize("longest", [6, 12, 40])
def test_every_item_after_the_first_is_a_target_once_an_epoch(longest):
    split = cyclic_split(longest=longest)
    expected = sorted(
        pair for items in split.train_items for pair in zip(items.tolist(), items[1:].tolist())
    )
    orders = set()
    for seed, epoch in ((5, 0), (5, 1), (6, 0)):
        batches = sasrec.epoch_batches(split.train_items, SMALL, seed, epoch)
        assert {array.shape for batch in batches for array in batch} == {(4, 8)}
        whole = sasrec.Packed(*(np.concatenate(arrays) for arrays in zip(*batches)))
        taken = whole.labels >= 0
        pairs = np.stack([whole.items[taken], whole.labels[taken]], 1).tolist()
        assert sorted(map(tuple, pairs)) == expected
        np.testing.assert_array_equal(taken, whole.piece > 0)
        orders.add(str(pairs))
    assert len(orders) == 3, "another order for every epoch and seed"


def test_a_place_follows_the_one_before_it_in_its_piece():
    split = cyclic_split(longest=40)
    for batch in sasrec.epoch_batches(split.train_items, SMALL, 0, 0):
        inside = (batch.piece[:, 1:] == batch.piece[:, :-1]) & (batch.piece[:, 1:] > 0)
        assert inside.any()
        np.testing.assert_array_equal(batch.items[:, 1:][inside], batch.labels[:, :-1][inside])


def test_rows_are_nearly_full():
    rng = np.random.default_rng(0)
    items = [np.zeros(n, np.int32) for n in rng.geometric(1 / 6, size=2_000).clip(1, 64)]
    packed = sasrec.pack(((row, row) for row in items), 64)
    assert np.mean(packed.piece > 0) > 0.97


def test_a_state_depends_on_its_own_history_alone_and_not_on_later_items():
    network = sasrec.Network(30, dataclasses.replace(SMALL, blocks=2))
    params = network.init(jax.random.key(1), sasrec.Packed.empty(1, 8))
    history = np.array([4, 9, 2], np.int32)
    other = np.array([7, 7, 1, 3], np.int32)
    alone = sasrec.hidden_states(network, params, [history])[0]
    beside = sasrec.hidden_states(network, params, [other, history, other[:0], history])
    np.testing.assert_allclose(beside[1], alone, atol=1e-6)
    np.testing.assert_allclose(beside[3], alone, atol=1e-6)
    assert not np.allclose(beside[0], alone, atol=1e-2)
    assert not beside[2].any(), "no history"
    packed = sasrec.pack([(np.append(history, np.int32(8)), np.zeros(4, np.int32))], 8)
    longer = network.apply(params, packed)
    np.testing.assert_allclose(longer[0, 2], alone, atol=1e-6)
    longest = np.concatenate([other, other, history])[-8:]
    cut = sasrec.hidden_states(network, params, [np.concatenate([other, other, history])])[0]
    np.testing.assert_allclose(cut, sasrec.hidden_states(network, params, [longest])[0], atol=1e-6)


def test_a_bias_is_that_of_the_distance():
    values = np.arange(1.0, 9.0).reshape(2, 4)
    found = np.asarray(sasrec.by_distance(jnp.asarray(values)))
    for query, key in np.ndindex(4, 4):
        expected = values[:, query - key] if key <= query else 0
        np.testing.assert_array_equal(found[:, query, key], expected)


def _plain_loss(hidden, table, targets, weights):
    log_shares = jax.nn.log_softmax(hidden @ table.T)
    return -jnp.sum(log_shares[jnp.arange(len(targets)), targets] * weights)


def _sampled_loss(sampled):
    return lambda *arguments: sasrec.sampled_cross_entropy(*arguments, sampled)


@pytest.mark.parametrize(
    "loss",
    [
        _sampled_loss(jnp.arange(9)),
        _sampled_loss(jnp.concatenate([jnp.arange(9), jnp.arange(9)])),
    ],
)
def test_a_sampled_loss_and_its_gradients_are_those_of_the_softmax(loss):
    rng = np.random.default_rng(0)
    hidden, table = (jnp.asarray(rng.normal(size=(n, 7)), jnp.float32) for n in (6, 9))
    targets, weights = jnp.array([0, 3, 3, 8, 1, -1]), jnp.array([0.1, 0.5, 1.0, 2.0, 0.3, 0.0])
    found, gradients = jax.value_and_grad(loss, (0, 1))(hidden, table, targets, weights)
    expected = jax.value_and_grad(_plain_loss, (0, 1))(hidden, table, targets, weights)
    np.testing.assert_allclose(found, expected[0], rtol=1e-5)
    for got, wanted in zip(gradients, expected[1]):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_dropout_keeps_the_mean():
    x = jnp.ones((100, 99))
    key = jax.random.key(0, impl="unsafe_rbg")
    dropped = np.asarray(sasrec.dropout(x, key, 0.25))
    assert set(np.unique(dropped)) == {0.0, np.float32(256 / 192)}
    assert abs((dropped == 0).mean() - 0.25) < 0.02
    assert sasrec.dropout(x, None, 0.25) is x


@pytest.mark.parametrize("max_softmax", [30, 29])
def test_it_learns_and_keeps_the_best_epoch(max_softmax, tmp_path):
    split = cyclic_split()
    settings = dataclasses.replace(SMALL, epochs=30, patience=30, max_softmax=max_softmax)
    model = sasrec.fit(split, tmp_path, settings=settings)
    assert len(model.validation) == 30
    assert model.epoch == 1 + int(np.argmax(model.validation))
    best = evaluation.retrieval(model.score_block(split), split, exclude_seen=True)
    assert best["ndcg@10"] == max(model.validation) > 0.6
    assert model.num_parameters == sum(a.size for a in jax.tree.leaves(model.params))


def test_training_ends_when_validation_no_longer_improves(tmp_path, monkeypatch):
    split, curve, scores = cyclic_split(), iter([0.1, 0.3, 0.2, 0.3, 0.9]), []

    def scripted(score_block, *_):
        scores.append(score_block(slice(0, 9)))
        return {"ndcg@10": next(curve)}

    monkeypatch.setattr(evaluation, "retrieval", scripted)
    settings = dataclasses.replace(SMALL, epochs=5, patience=2)
    model = sasrec.fit(split, tmp_path, settings=settings)
    assert (model.epoch, model.validation) == (2, [0.1, 0.3, 0.2, 0.3])
    found = model.score_block(split)(slice(0, 9))
    np.testing.assert_array_equal(found, scores[1])
    assert not np.array_equal(found, scores[3])


def test_a_seed_fixes_the_result(tmp_path):
    split = cyclic_split()
    first, again, other = (
        sasrec.fit(split, tmp_path / name, seed=seed, settings=SMALL)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert _bits(first) == _bits(again)
    assert _bits(first) != _bits(other)


def _bits(model) -> list[bytes]:
    return [np.asarray(array).tobytes() for array in jax.tree.leaves(model.params)]


def test_a_killed_training_resumes_with_equal_bits(tmp_path, monkeypatch):
    split = cyclic_split()
    whole = sasrec.fit(split, tmp_path / "whole", settings=SMALL)
    validate, calls = evaluation.retrieval, []

    def killed(*args):
        if len(calls) == 2:
            raise RuntimeError("killed")
        calls.append(1)
        return validate(*args)

    monkeypatch.setattr(evaluation, "retrieval", killed)
    with pytest.raises(RuntimeError, match="killed"):
        sasrec.fit(split, tmp_path / "killed", settings=SMALL)
    calls.clear()
    resumed = sasrec.fit(split, tmp_path / "killed", settings=SMALL)
    assert len(calls) == 2, "the first two epochs are not done again"
    assert (resumed.epoch, resumed.validation) == (whole.epoch, whole.validation)
    assert _bits(resumed) == _bits(whole)


def test_a_damaged_state_starts_training_anew(tmp_path, capsys):
    split = cyclic_split()
    first = sasrec.fit(split, tmp_path, settings=SMALL)
    (file,) = tmp_path.glob("*.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    again = sasrec.fit(split, tmp_path, settings=SMALL)
    assert "is damaged: training starts anew" in " ".join(capsys.readouterr().err.split())
    assert _bits(again) == _bits(first)


def test_a_finished_training_is_read_and_one_with_other_settings_replaces_it(tmp_path, monkeypatch):
    split = cyclic_split()
    first = sasrec.fit(split, tmp_path, settings=SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "retrieval", None)
        again = sasrec.fit(split, tmp_path, settings=SMALL)
    assert (_bits(again), again.seconds) == (_bits(first), first.seconds)
    (before,) = tmp_path.glob("*.npy")
    sasrec.fit(split, tmp_path, settings=SMALL, exclude_seen=False)
    (after,) = tmp_path.glob("*.npy")
    assert after != before


def test_a_dataset_without_pairs_is_reported(tmp_path):
    split = cyclic_split()
    split = dataclasses.replace(split, train_items=[items[:1] for items in split.train_items])
    with pytest.raises(UserError, match=r"got none of two items.*leave out the row sasrec"):
        sasrec.fit(split, tmp_path, settings=SMALL)


def test_a_training_that_diverges_is_reported(tmp_path):
    settings = dataclasses.replace(SMALL, learning_rate=float("inf"))
    with pytest.raises(UserError, match="got a loss of nan in epoch"):
        sasrec.fit(cyclic_split(), tmp_path, settings=settings)
