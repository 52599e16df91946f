import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.errors import UserError
from recllm_tasks.models.beam_search import DEAD, beam_search
from recllm_tasks.models.candidate_scores import score_candidates
from recllm_tasks.models.trie import Trie

# tools/accelerator_check.sh runs this file where TensorFlow, SeqIO and Orbax are not installed.
torch = pytest.importorskip("torch")

EOS = 1


def _inputs(seed, batch=2, length=9, vocab=60):
    tokens = np.random.default_rng(seed).integers(2, vocab, (batch, length))
    tokens[1:, -3:] = 0
    return tokens


def _even_catalog(seed=0, items=150):
    """Ids of three tokens each."""
    rng = np.random.default_rng(seed)
    every = list(itertools.product(range(10, 14), range(20, 30), range(20, 30)))
    return [every[i] for i in rng.permutation(len(every))[:items]]


def _uneven_catalog(seed=0, items=150):
    """Ids of two to four tokens, some of them the beginning of others."""
    rng = np.random.default_rng(seed)
    every = [(10, *t) for n in (1, 2, 3) for t in itertools.product(range(20, 26), repeat=n)]
    return [every[i] for i in rng.permutation(len(every))[:items]]


def _hugging_face(hf, inputs, num_beams, max_steps, catalog=None):
    """For each input, (tokens up to EOS, score) best first; whatever has no EOS is left out."""
    allowed = {}
    for item in catalog or ():
        for n in range(len(item) + 1):
            allowed.setdefault(item[:n], set()).add((*item, EOS)[n])

    def prefix_allowed_tokens(_, tokens):
        tail = tuple(tokens.tolist())[1:]
        # Beams that do not exist wander off the trie; 2 keeps them off the items.
        return sorted(allowed.get(tail, {2}))

    out = hf.generate(
        torch.tensor(inputs),
        attention_mask=torch.tensor(inputs > 0).long(),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=max_steps,
        length_penalty=0.0,
        early_stopping="never",
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=0,
        suppress_tokens=[0],
        prefix_allowed_tokens_fn=prefix_allowed_tokens if catalog else None,
        output_scores=True,
        return_dict_in_generate=True,
    )
    tokens = out.sequences[:, 1:].tolist()
    scores = out.sequences_scores.tolist()
    lists = []
    for start in range(0, len(tokens), num_beams):
        ended = [
            (tuple(t[: t.index(EOS) + 1]), s)
            for t, s in zip(tokens[start : start + num_beams], scores[start : start + num_beams])
            if EOS in t and s > DEAD / 2
        ]
        lists.append(ended)
    return lists


def _ours(beams):
    lists = []
    for tokens, scores in zip(beams.tokens_BxKxT.tolist(), beams.log_probs_BxK.tolist()):
        lists.append(
            [
                (tuple(itertools.takewhile(bool, t)), s)
                for t, s in zip(tokens, scores)
                if s > DEAD / 2
            ]
        )
    return lists


def _assert_same(ours, theirs):
    """Equal scores; equal order wherever neighbours differ by more than rounding."""
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        assert len(mine) == len(other)
        np.testing.assert_allclose([s for _, s in mine], [s for _, s in other], atol=1e-4)
        scores = dict(mine)
        assert set(scores) == set(dict(other)) or abs(mine[-1][1] - other[-1][1]) < 1e-4
        for (tokens, _), (_, theirs_score) in zip(mine, other):
            assert abs(scores[tokens] - theirs_score) < 1e-4


@pytest.fixture
def exhaustive(forced_scores):
    def score_all(model, params, inputs, catalog):
        """Log-probabilities [B, N] of all items by teacher forcing."""
        width = max(map(len, catalog)) + 1
        targets = np.array([(*item, EOS, *[0] * (width - 1 - len(item))) for item in catalog])
        every = np.tile(targets, (len(inputs), 1))
        flat = forced_scores(model, params, np.repeat(inputs, len(catalog), axis=0), every)
        return np.asarray(flat).reshape(len(inputs), len(catalog))

    return score_all


@pytest.mark.parametrize("seed", [0, 1])
def test_constrained_equals_hugging_face(make_pair, seed):
    hf, model, params = make_pair(seed=seed)
    catalog, inputs = _even_catalog(seed), _inputs(seed)
    beams = beam_search(model, params, inputs, Trie.build(catalog), num_beams=20)
    _assert_same(_ours(beams), _hugging_face(hf, inputs, 20, 4, catalog))
    assert [[catalog[r] for r in rows] for rows in beams.rows_BxK.tolist()] == [
        [tokens[:-1] for tokens, _ in found] for found in _ours(beams)
    ]


@pytest.mark.slow
def test_the_shape_of_t5_small_equals_hugging_face(make_pair):
    """Over a catalog as large as a shop's, with ids as T5's vocabulary writes them."""
    sizes = {"emb_dim": 512, "mlp_dim": 1024, "num_heads": 6, "head_dim": 64, "vocab_size": 32_128}
    layers = {"num_encoder_layers": 8, "num_decoder_layers": 8}
    hf, model, params = make_pair(seed=5, sharpness=0.2, **sizes, **layers)
    every = itertools.product((27, 28), range(100, 200), range(300, 360))
    catalog = [(7, *tokens) for tokens in every]
    assert len(catalog) == 12_000
    inputs = _inputs(5, batch=4, length=64, vocab=32_000)
    beams = beam_search(model, params, inputs, Trie.build(catalog), num_beams=20)
    _assert_same(_ours(beams), _hugging_face(hf, inputs, 20, 5, catalog))


@pytest.fixture
def trained_run(small_data, network, tmp_path):
    """The folder of a run that has learned; RECLLM_RUN names one of yours (and TFDS_DATA_DIR)."""
    import seqio

    import recllm_tasks.mixtures  # noqa: F401
    from recllm_tasks.engine import optimizer, training

    if "RECLLM_RUN" in os.environ:
        seqio.set_tfds_data_dir_override(os.environ["TFDS_DATA_DIR"])
        return os.environ["RECLLM_RUN"]
    training.train(
        mixture="gift_cards_retrieval",
        model_dir=str(tmp_path / "run"),
        model_name="very_small",
        lengths={"inputs": 512, "targets": 16},
        network=network,
        optimizer=optimizer.adafactor(optimizer.constant_with_warmup(0.02, 50)),
        steps=400,
        batch_size=8,
        eval_period=400,
    )
    return str(tmp_path / "run")


@pytest.mark.slow
def test_a_trained_checkpoint_equals_hugging_face(trained_run, tmp_path):
    """The engine's answers to a task's test prompts, and generate's of the converted run."""
    import transformers

    from recllm_tasks import tasks
    from recllm_tasks.engine import saved_run
    from recllm_tasks.engine.decoding import TaskDecoder
    from recllm_tasks.models.formats import conversion
    from recllm_tasks.runs.decoding import Decoding

    saved = saved_run.load(trained_run)
    dataset = tasks.source_of(tasks.get(saved.run.mixture)).dataset_name
    task = tasks.get(f"{dataset}_retrieval")
    examples = list(
        task.get_dataset(saved.run.lengths, split="test", shuffle=False)
        .take(48)
        .as_numpy_iterator()
    )
    decoding = Decoding(num_beams=20, batch_size=16, seen="keep")  # generate leaves none out
    decoder = TaskDecoder(task, saved.network, saved.mesh, decoding, max_steps=16)
    beams = decoder.decode(saved.params, examples)
    conversion.convert(conversion.open_any(trained_run), "hf", tmp_path / "hf")
    hf = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    encode = task.output_features["targets"].vocabulary.encode
    catalog = [tuple(encode(text)) for text in decoder.answers]
    inputs = np.zeros((len(examples), max(len(e["inputs"]) for e in examples)), np.int64)
    for row, example in enumerate(examples):
        inputs[row, : len(example["inputs"])] = example["inputs"]
    theirs = _hugging_face(hf, inputs, 20, 1 + max(map(len, catalog)), catalog)
    likely = np.exp(beams.log_probs_BxK[:, 0])
    assert likely.max() > 3 / len(catalog)  # it has learned, so scores are far apart
    if len({len(item) for item in catalog}) == 1:
        _assert_same(_ours(beams), theirs)
    for mine, other in zip(_ours(beams), theirs):
        found = dict(mine)  # Ids of several lengths: see below what Hugging Face drops.
        assert all(abs(found[t] - s) < 1e-4 for t, s in other if t in found)
        assert all(s < mine[-1][1] + 1e-4 for t, s in other if t not in found)
        assert mine[0][1] == pytest.approx(other[0][1], abs=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_ids_of_several_lengths_lose_nothing_that_hugging_face_finds(make_pair, seed):
    """Hugging Face drops an item that ends outside of the best K of its step; we keep it."""
    hf, model, params = make_pair(seed=seed)
    catalog, inputs = _uneven_catalog(seed), _inputs(seed)
    beams = beam_search(model, params, inputs, Trie.build(catalog), num_beams=20)
    for mine, other in zip(_ours(beams), _hugging_face(hf, inputs, 20, 5, catalog)):
        assert len(mine) == 20
        scores = dict(mine)
        for tokens, their_score in other:
            if tokens in scores:
                assert abs(scores[tokens] - their_score) < 1e-4
            else:
                assert their_score < mine[-1][1] + 1e-4
        best = [s for _, s in mine]
        assert all(a >= b - 1e-4 for a, b in zip(best, [s for _, s in other]))


@pytest.mark.parametrize("seed", [0, 1])
def test_unconstrained_loses_nothing_that_hugging_face_finds(make_pair, seed):
    """What it finds, we find; it drops endings beyond the best K of a step, and counts
    hypotheses that the last step cuts off as finished, which we drop."""
    hf, model, params = make_pair(seed=seed, sharpness=0.1, vocab_size=6)
    inputs = _inputs(seed, vocab=6)
    mine = _ours(beam_search(model, params, inputs, num_beams=6, max_steps=9))
    theirs = _hugging_face(hf, inputs, 6, 9)
    assert all(theirs)
    for found, other in zip(mine, theirs):
        scores = dict(found)
        for place, (tokens, their_score) in enumerate(other):
            assert found[place][1] >= their_score - 1e-4
            if their_score > found[-1][1] + 1e-4:
                assert abs(scores[tokens] - their_score) < 1e-4


def test_unconstrained_with_room_for_all_finds_every_ending(make_pair, exhaustive):
    _, model, params = make_pair(seed=2, sharpness=0.3, vocab_size=5)
    inputs = _inputs(2, vocab=5)
    every = [t for n in range(3) for t in itertools.product((2, 3, 4), repeat=n)]
    expected = exhaustive(model, params, inputs, every)
    found = _ours(beam_search(model, params, inputs, num_beams=20, max_steps=3))
    for row, mine in enumerate(found):
        order = np.argsort(-expected[row])
        assert [tokens for tokens, _ in mine] == [(*every[i], EOS) for i in order]
        np.testing.assert_allclose([s for _, s in mine], expected[row, order], atol=1e-4)


@pytest.fixture(scope="module")
def pair(make_pair):
    return make_pair(seed=3)[1:]


@pytest.mark.parametrize(("make_catalog", "items"), [(_even_catalog, 30), (_uneven_catalog, 7)])
def test_as_many_beams_as_items_is_exhaustive(pair, make_catalog, items, exhaustive):
    catalog, inputs = make_catalog(5, items), _inputs(5)
    beams = beam_search(*pair, inputs, Trie.build(catalog), num_beams=30)
    expected = exhaustive(*pair, inputs, catalog)
    for row in range(len(inputs)):
        order = np.argsort(-expected[row])
        assert beams.rows_BxK[row, :items].tolist() == order.tolist()
        np.testing.assert_allclose(
            beams.log_probs_BxK[row, :items], expected[row, order], atol=1e-4
        )
    # Beams beyond the catalog do not exist.
    assert (beams.rows_BxK[:, items:] == -1).all()
    assert (beams.log_probs_BxK[:, items:] == DEAD).all()
    assert (beams.tokens_BxKxT[:, items:] == 0).all()


def test_what_follows_a_beginning_is_scored_given_it(pair, forced_scores):
    catalog, inputs = _uneven_catalog(4, 12), _inputs(4, batch=4)
    beginnings = [(30, 12, 41, 8, 25), (), (44,), (51, 7, 7)]
    aligned = np.array([[0] * (6 - len(own)) + [*own] for own in beginnings], np.int32)
    trie = Trie.build(catalog)
    beams = beam_search(*pair, inputs, trie, None, None, aligned, num_beams=14)
    every = np.tile(np.arange(12, dtype=np.int32), (4, 1))
    scored = score_candidates(*pair, inputs, trie, every, None, aligned)
    for row, own in enumerate(beginnings):
        whole = [[*own, *item, EOS] for item in catalog]
        targets = np.zeros((13, 12), np.int32)
        for target, tokens in zip(targets, [*whole, own]):
            target[: len(tokens)] = tokens
        scores = np.asarray(forced_scores(*pair, np.tile(inputs[row], (13, 1)), targets))
        expected = scores[:-1] - scores[-1]
        order = np.argsort(-expected)
        for found in (beams, scored):
            assert found.rows_BxK[row, :12].tolist() == order.tolist()
            np.testing.assert_allclose(found.log_probs_BxK[row, :12], expected[order], atol=2e-4)
    without = beam_search(*pair, inputs[1:2], trie, num_beams=14)
    np.testing.assert_array_equal(beams.rows_BxK[1], without.rows_BxK[0])
    np.testing.assert_allclose(beams.log_probs_BxK[1], without.log_probs_BxK[0], atol=1e-4)


def test_without_eos_an_item_is_as_probable_as_its_tokens(pair, forced_scores):
    catalog, inputs = _uneven_catalog(4, 12), _inputs(4)
    trie, every = Trie.build(catalog), np.tile(np.arange(12, dtype=np.int32), (2, 1))
    beams = beam_search(*pair, inputs, trie, num_beams=14, scores_eos=False)
    scored = score_candidates(*pair, inputs, trie, every, scores_eos=False)
    targets = np.array([(*item, *[0] * (4 - len(item))) for item in catalog], np.int32)
    for row in range(2):
        expected = np.asarray(forced_scores(*pair, np.tile(inputs[row], (12, 1)), targets))
        order = np.argsort(-expected)
        for found in (beams, scored):
            assert found.rows_BxK[row, :12].tolist() == order.tolist()
            np.testing.assert_allclose(found.log_probs_BxK[row, :12], expected[order], atol=1e-4)


def test_candidates_are_ranked_exhaustively(pair, exhaustive):
    catalog, inputs = _uneven_catalog(6), _inputs(6)
    rng = np.random.default_rng(6)
    candidates = np.stack([rng.permutation(len(catalog))[:12] for _ in inputs]).astype(np.int32)
    candidates[1, 9:] = -1  # padding: three candidates fewer
    beams = beam_search(*pair, inputs, Trie.build(catalog), candidates, num_beams=14)
    expected = exhaustive(*pair, inputs, catalog)
    for row, count in ((0, 12), (1, 9)):
        own = candidates[row, :count]
        ranked = own[np.argsort(-expected[row, own])]
        assert beams.rows_BxK[row].tolist() == [*ranked.tolist(), *[-1] * (14 - count)]


@pytest.mark.parametrize(
    "make_catalog", [pytest.param(_even_catalog, marks=pytest.mark.slow), _uneven_catalog]
)
def test_excluded_items_leave_the_others_in_order(pair, make_catalog, exhaustive):
    catalog, inputs = make_catalog(7, 40), _inputs(7)
    rng = np.random.default_rng(7)
    excluded = np.stack([rng.permutation(40)[:25] for _ in inputs]).astype(np.int32)
    excluded[0, 20:] = -1  # padding
    excluded[1, :5] = excluded[1, 5:10]  # a history may hold an item twice
    trie = Trie.build(catalog)
    beams = beam_search(*pair, inputs, trie, excluded_BxM=excluded, num_beams=30)
    expected = exhaustive(*pair, inputs, catalog)
    candidates = np.tile(np.arange(35, dtype=np.int32), (2, 1))
    both = beam_search(*pair, inputs, trie, candidates, excluded, num_beams=30)
    for row in range(len(inputs)):
        order = np.argsort(-expected[row])
        left = [i for i in order if i not in excluded[row]]
        assert beams.rows_BxK[row].tolist() == left + [-1] * (30 - len(left))
        left = [i for i in left if i < 35]
        assert both.rows_BxK[row].tolist() == left + [-1] * (30 - len(left))


def test_long_ids_are_searched_as_short_ones(pair, exhaustive):
    """Beyond the steps that are compiled one by one."""
    catalog, inputs = [(*range(30, 39), *item) for item in _uneven_catalog(9, 20)], _inputs(9)
    beams = beam_search(*pair, inputs, Trie.build(catalog), num_beams=20)
    expected = exhaustive(*pair, inputs, catalog)
    for row in range(len(inputs)):
        order = np.argsort(-expected[row])
        assert beams.rows_BxK[row].tolist() == order.tolist()
        np.testing.assert_allclose(beams.log_probs_BxK[row], expected[row, order], atol=1e-4)


@pytest.mark.slow
def test_two_thousand_beams_are_exhaustive_over_two_thousand_items(make_pair, exhaustive):
    _, *pair = make_pair(seed=6)
    every = [(10, *t) for n in (2, 3) for t in itertools.product(range(20, 33), repeat=n)]
    catalog, inputs = every[:2000], _inputs(6)
    beams = beam_search(*pair, inputs, Trie.build(catalog), num_beams=len(catalog))
    expected = exhaustive(*pair, inputs, catalog)
    for row in range(len(inputs)):
        found = np.asarray(beams.rows_BxK[row])
        assert sorted(found.tolist()) == list(range(len(catalog)))
        np.testing.assert_allclose(beams.log_probs_BxK[row], expected[row, found], atol=1e-4)
        assert (np.diff(expected[row, found]) < 1e-4).all(), "best first"


_TREES = {}


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), kind=st.sampled_from([_even_catalog, _uneven_catalog]))
def test_beams_are_distinct_items_in_falling_order_with_true_scores(
    pair, seed, kind, forced_scores
):
    if kind not in _TREES:
        catalog = kind(1)
        _TREES[kind] = catalog, Trie.build(catalog)
    catalog, trie = _TREES[kind]
    inputs = _inputs(seed)
    beams = beam_search(*pair, inputs, trie, num_beams=9)
    scores = np.asarray(beams.log_probs_BxK)
    assert (np.diff(scores, axis=1) <= 0).all()
    for rows, tokens in zip(beams.rows_BxK.tolist(), beams.tokens_BxKxT.tolist()):
        assert len(set(rows)) == 9
        assert min(rows) >= 0
        for row, sequence in zip(rows, tokens):
            ended = (*catalog[row], EOS)
            assert tuple(sequence) == ended + (0,) * (trie.max_depth - len(ended))
    flat = beams.tokens_BxKxT.reshape(-1, trie.max_depth)
    forced = forced_scores(*pair, np.repeat(inputs, 9, axis=0), flat)
    np.testing.assert_allclose(scores.reshape(-1), forced, atol=1e-4)


def test_a_batch_is_searched_as_its_examples_are(pair):
    inputs, trie = _inputs(7), Trie.build(_uneven_catalog(7))
    together = beam_search(*pair, inputs, trie, num_beams=9)
    for row in range(len(inputs)):
        alone = beam_search(*pair, inputs[row : row + 1], trie, num_beams=9)
        assert alone.rows_BxK[0].tolist() == together.rows_BxK[row].tolist()


def test_an_example_that_is_done_waits_for_the_others(pair):
    trie = Trie.build([(10,), (10, 20, 21, 22), (11, 20)])
    candidates = np.array([[0], [1]], np.int32)
    beams = beam_search(*pair, _inputs(8), trie, candidates, num_beams=1)
    assert beams.rows_BxK.tolist() == [[0], [1]]


def test_misuse_is_a_user_error(pair):
    inputs, trie = _inputs(0), Trie.build([(10, 20), (11,)])
    with pytest.raises(UserError, match="without a trie"):
        beam_search(*pair, inputs, candidates_BxM=np.zeros((2, 1), np.int32), max_steps=3)
    with pytest.raises(UserError, match="got None without a trie"):
        beam_search(*pair, inputs)
    with pytest.raises(UserError, match="expected at least 3 and 1"):
        beam_search(*pair, inputs, trie, max_steps=2)
    with pytest.raises(UserError, match="got max_steps=3 and eos_id=7"):
        beam_search(*pair, inputs, trie, eos_id=7)
