"""Two runs of one dataset with other ids, prompts and parameters, ranked together."""

import dataclasses
import json

import numpy as np
import pytest
import seqio

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import cli, metrics, tasks
from recllm_tasks.data.prepare import prepare
from recllm_tasks.engine import ensemble, evaluation, optimizer, prior_choice, saved_run, training
from recllm_tasks.engine.answer_tries import answers_of
from recllm_tasks.engine.decoding import TaskDecoder
from recllm_tasks.engine.item_prior import ItemPrior
from recllm_tasks.errors import UserError
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.vocabulary_training import ensure_vocabulary
from recllm_tasks.runs import per_user, results
from recllm_tasks.runs.decoding import Decoding

pytestmark = pytest.mark.usefixtures("clean_gin")
TASK = "gift_cards_retrieval"
WIDE = Decoding(num_beams=36, batch_size=16)  # as many beams as items


@pytest.fixture(scope="module")
def atomic(tmp_path_factory, small_data_dir, network):
    """(folder of a run on atomic ids, its data folder)."""
    folder = tmp_path_factory.mktemp("atomic")
    prepare("gift_cards", folder / "data", small_data_dir.parent / "raw", ids="atomic")
    seqio.set_tfds_data_dir_override(str(folder / "data"))
    ensure_vocabulary(CatalogSource("gift_cards"))
    training.train(
        mixture=TASK,
        model_dir=str(folder / "run"),
        model_name="atomic",
        lengths={"inputs": 512, "targets": 16},
        network=network,
        optimizer=optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10)),
        steps=3,
        batch_size=4,
        eval_period=3,
    )
    seqio.set_tfds_data_dir_override(None)
    return str(folder / "run"), str(folder / "data")


@pytest.fixture
def pair(run_dir, small_data_dir, atomic):
    """Arguments of `ensemble` except the output folder."""
    yield {"runs": [run_dir, atomic[0]], "data_dirs": [str(small_data_dir), atomic[1]]}
    seqio.set_tfds_data_dir_override(None)


def _scores(run, data_dir, split="test"):
    """(log p [U, N] by catalog row, log p(item-to-item) [U, N], targets), by whole beams."""
    seqio.set_tfds_data_dir_override(data_dir)
    saved = saved_run.load(run)
    (task,) = saved.tasks(TASK)
    decoder = TaskDecoder(task, saved.network, saved.mesh, WIDE, max_steps=16)
    examples = list(task.get_dataset(saved.run.lengths, split, shuffle=False).as_numpy_iterator())
    beams = decoder.decode(saved.params, examples)
    scores = np.full(beams.rows_BxK.shape, -np.inf)
    np.put_along_axis(scores, beams.rows_BxK, beams.log_probs_BxK, axis=1)
    answers = answers_of(task)
    histories = [example["exclude"][:-1] for example in examples]
    prior = ItemPrior(tasks.source_of(task), answers).of(histories, None, None)
    place = np.tile(answers.trie.item_positions, (len(examples), 1))
    log_prior = np.asarray(prior.log_mass(place, place + 1, np.ones_like(place)))
    return scores, log_prior, np.array([example["target"] for example in examples])


@pytest.mark.slow
def test_the_ranking_is_that_of_the_weighted_logs(pair, tmp_path):
    found = ensemble.ensemble(
        **pair,
        out=str(tmp_path),
        weight=0.3,
        decoding=dataclasses.replace(WIDE, prior_weight=1.5),
    )
    (a, prior, targets), (b, _, others) = map(_scores, pair["runs"], pair["data_dirs"])
    np.testing.assert_array_equal(targets, others)
    assert np.isfinite(a).all()
    assert np.isfinite(b).all()
    scores = 0.7 * a + 0.3 * b + 1.5 * prior
    measured = found.metrics[TASK]
    expected = metrics.rank_metrics(metrics.ranks_from_scores(scores, targets))
    assert {key: measured[key] for key in expected} == pytest.approx(expected)
    rows = next(iter(per_user.read(tmp_path / found.per_user[TASK])))
    best = [np.argsort(-own, kind="stable")[:20].tolist() for own in scores]
    assert sum(x == y for x, y in zip(rows.column("items").to_pylist(), best)) >= len(best) - 1
    again = results.read(tmp_path / "results.json")
    assert again.metrics == found.metrics
    assert again.name == "test-beam36-prior1.5"
    assert again.settings["weight"] == 0.3


@pytest.mark.slow
def test_weights_are_the_best_on_validation(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(ensemble, "GRID", (0.2, 0.8))
    monkeypatch.setattr(prior_choice, "GRID", (0.5, 3.0))
    found = ensemble.ensemble(
        **pair, out=str(tmp_path), decoding=dataclasses.replace(WIDE, prior_weight="validation")
    )
    a, b = (_scores(*one, "validation") for one in zip(pair["runs"], pair["data_dirs"]))
    expected = {}
    for w in (0.2, 0.8):
        for prior in (0.5, 3.0):
            ranks = metrics.ranks_from_scores((1 - w) * a[0] + w * b[0] + prior * a[1], a[2])
            expected[f"{w:g}, {prior:g}"] = metrics.ndcg(ranks, 10)
    assert found.settings["validation_ndcg@10"] == pytest.approx(expected)
    best = max(expected, key=expected.get)
    assert f"{found.settings['weight']:g}, {found.decoding.prior_weight:g}" == best


def test_weights_that_rank_the_targets_first_are_chosen(monkeypatch):
    monkeypatch.setattr(ensemble, "GRID", (0.2, 0.8))
    monkeypatch.setattr(prior_choice, "GRID", (1.0, 4.0))
    found = ensemble.Candidates(
        ["ann", "bob", "eve"],
        np.array([5, 9, 30], np.int32),
        np.array([3, 3, 3], np.int32),
        [np.array([2, 5, 7]), np.array([1, 9]), np.array([1, 2])],  # eve's is not found
        [
            np.array([[-1, -9, -9], [-9, -1, -9], [-4, -4, -4]], np.float32),
            np.array([[-1, -9], [-1, -3], [-5, -1]], np.float32),
            np.array([[-1, -2], [-1, -2], [-1, -2]], np.float32),
        ],
    )
    # ann needs the second run, bob the prior: .2 * -9 + .8 * -3 - W against -1 - 5 W.
    weights = ensemble.choose_weights(found, "validation", "validation", 2)
    assert weights[:2] == (0.8, 1.0)
    assert weights.measured["0.8, 1"] == weights.measured["0.8, 4"] == pytest.approx(2 / 3)
    assert found.ranks(found.lists(0.2, 0.0, 2)).tolist() == [2, 2, np.inf]
    assert ensemble.choose_weights(found, 0.2, "validation", 2)[:2] == (0.2, 4.0)


def test_a_run_with_itself_is_the_run(run_dir, small_data_dir, tmp_path):
    """With few beams: both searches find the same items, in the run's own order."""
    decoding = Decoding(num_beams=6, batch_size=16)
    found = ensemble.ensemble(
        [run_dir] * 2, str(tmp_path), data_dirs=[str(small_data_dir)], weight=0.4, decoding=decoding
    )
    seqio.set_tfds_data_dir_override(str(small_data_dir))
    alone = evaluation.evaluate(model_dir=run_dir, mixture=TASK, decoding=decoding)
    seqio.set_tfds_data_dir_override(None)
    assert found.metrics[TASK] == pytest.approx(alone.metrics[TASK])


@pytest.mark.slow
def test_the_command_writes_a_row_of_its_own(pair, tmp_path, capsys):
    folders = [text for folder in pair["data_dirs"] for text in ("--data_dir", folder)]
    command = ["ensemble", *pair["runs"], "--out", str(tmp_path / "both"), *folders]
    code = cli.main([*command, "--weight", "0.5", "--num_beams", "4", "--num_examples", "9"])
    assert code == 0, capsys.readouterr().err
    shown = json.loads((tmp_path / "both" / "results.json").read_text())
    assert shown["num_examples"] == {TASK: 9}
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path / "both"), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.md").read_text().replace("\\", "")
    assert (
        "ensemble of gift_cards_ut and gift_cards_retrieval (very_small and atomic, 4 beams)"
        in page
    )
    assert cli.main([*command, "--weight", "1.5"]) == 2
    assert "--weight: got 1.5" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_on_other_records_are_refused(pair, tmp_path, small_data_dir, monkeypatch):
    member = ensemble._Member

    def other(*args):
        made = member(*args)
        if args[1] != str(small_data_dir):
            made.info = dataclasses.replace(made.info, split_fingerprint="0" * 64)
        return made

    monkeypatch.setattr(ensemble, "_Member", other)
    with pytest.raises(UserError, match="with other records"):
        ensemble.ensemble(**pair, out=str(tmp_path), weight=0.5)
