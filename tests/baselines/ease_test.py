import numpy as np
import pytest

from recllm_tasks.baselines import ease, evaluation
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.errors import UserError


def random_split(num_items: int = 14, num_users: int = 30) -> SplitInteractions:
    rng = np.random.default_rng(3)

    def record(user, length):
        items = rng.integers(num_items, size=length).astype(np.int32)
        return {"user": str(user), "items": items, "ratings": np.full(length, np.nan)}

    train = [record(user, 1 + user % 6) for user in range(num_users)]
    records = [record(user, 2 + user % 6) for user in range(num_users)]
    return SplitInteractions.from_records(records, train, num_items)


def one_hot(sequences, num_items):
    table = np.zeros((len(sequences), num_items))
    for user, items in enumerate(sequences):
        table[user, items] = 1
    return table


@pytest.mark.parametrize("regularization", [0.5, 20.0])
def test_each_column_is_a_ridge_regression_on_the_other_items(regularization):
    split = random_split()
    x = one_hot(split.train_items, 14)
    expected = np.zeros((14, 14))
    for item in range(14):
        others = np.arange(14) != item
        a = x[:, others]
        ridge = a.T @ a + regularization * np.eye(13)
        expected[others, item] = np.linalg.solve(ridge, a.T @ x[:, item])
    found = ease.weights(ease.gram(split.train_items, 14), regularization)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert found.dtype == np.float32


def test_the_triangle_is_mirrored_whatever_the_block():
    matrix = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    expected = np.tril(matrix) + np.tril(matrix, -1).T
    for block in (1, 2, 3, 7, 9):
        found = matrix.copy()
        ease._mirror_lower(found, block)
        np.testing.assert_array_equal(found, expected)


def test_scores_sum_the_weights_of_the_history():
    split = random_split()
    model = ease.fit(split, [5.0], 5.0)
    scores = model.score_block(split)(slice(4, 9))
    expected = one_hot(split.history_items, 14) @ model.weights
    np.testing.assert_allclose(scores, expected[4:9], rtol=1e-5, atol=1e-7)


def test_lambda_is_the_best_on_validation():
    split, told = random_split(), []
    model = ease.fit(split, [0.01, 5.0, 1e4], 5.0, told.append)
    for regularization, measured in model.validation.items():
        alone = ease.fit(split, [regularization], regularization).score_block(split)
        assert evaluation.retrieval(alone, split, exclude_seen=True)["ndcg@10"] == measured
    assert len(set(model.validation.values())) > 1
    assert model.regularization == max(model.validation, key=model.validation.get)
    assert len(told) == len(model.validation)
    assert "lambda 5: validation ndcg@10 0." in told[0]


@pytest.mark.parametrize(
    ("ndcg", "tried", "chosen"),
    [
        ([1, 2, 3, 2, 9], [4, 8, 2], 4),
        ([1, 2, 3, 4, 5], [4, 8, 16], 16),
        ([5, 4, 3, 2, 1], [4, 8, 2, 1], 1),
        ([1, 3, 3, 3, 1], [4, 8, 2, 1], 2),
        ([1, 2, 3, 4, 2], [4, 8, 16], 8),
    ],
)
def test_lambda_is_climbed_to_until_its_neighbours_are_no_better(monkeypatch, ndcg, tried, chosen):
    split, lambdas = random_split(), [1.0, 2.0, 4.0, 8.0, 16.0]
    fitted = []
    monkeypatch.setattr(ease, "weights", lambda gram, of: fitted.append(of) or np.full(1, of))
    monkeypatch.setattr(
        evaluation, "retrieval", lambda *_, **__: {"ndcg@10": ndcg[lambdas.index(fitted[-1])]}
    )
    model = ease.fit(split, lambdas, 4.0)
    assert (fitted, model.regularization, model.weights[0]) == (tried, chosen, chosen)
    assert model.validation == {of: ndcg[lambdas.index(of)] for of in tried}


def test_a_catalog_too_large_for_it_is_reported(monkeypatch):
    monkeypatch.setattr(ease, "MAX_ITEMS", 13)
    with pytest.raises(UserError, match=r"got 14 items.*leave out the row ease"):
        ease.fit(random_split())
