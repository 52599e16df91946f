"""The setting that chooses which items of training sequences are targets, in both pipelines."""

import itertools

import gin
import numpy as np
import pytest
import seqio

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.errors import UserError
from recllm_tasks.pipeline import training
from recllm_tasks.pipeline.training import training_batches
from recllm_tasks.prompts import targets
from recllm_tasks.prompts.source import SequenceSource

LENGTHS = {"inputs": 1024, "targets": 64}
KINDS = [kind for kind in targets.DEFAULTS if not kind.startswith("ids_sequence")]
EVERY = dict.fromkeys(KINDS, "every")

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


@pytest.mark.parametrize("kind", KINDS)
def test_every_item_after_the_first_is_a_target_once_an_epoch(kind, every_item_is_a_target_once):
    task = seqio.TaskRegistry.get(f"gift_cards_{kind}")
    paper = SequenceSource("gift_cards").num_examples()
    gin.parse_config(f"targets.targets.of = {EVERY}")
    assert every_item_is_a_target_once(task, LENGTHS) > 2 * paper


def test_a_sources_own_setting_needs_no_gin(every_item_is_a_target_once):
    retrieval = seqio.TaskRegistry.get("gift_cards_retrieval")
    source = SequenceSource("gift_cards", targets="every")
    every_item_is_a_target_once(retrieval.replace(name="own_targets", source=source), LENGTHS)


def test_by_default_the_papers_tasks_have_its_windows_and_those_of_ids_every_item():
    counts = {
        kind: seqio.TaskRegistry.get(f"gift_cards_{kind}").source.num_examples() for kind in KINDS
    }
    records = SequenceSource("gift_cards").records("train").as_numpy_iterator()
    lengths = [len(record["items"]) for record in records]
    paper, every = sum(max(1, n - 20) for n in lengths), sum(n - 1 for n in lengths)
    of_ids = dict.fromkeys(("ids_retrieval", "ids_ranking", "ids_rating", "ids_bpr"), every)
    assert counts == {**dict.fromkeys(counts, paper), **of_ids}


def test_rates_by_temperature_count_every_target():
    found = tasks.get("gift_cards_reat")
    retrieval = seqio.TaskRegistry.get("gift_cards_retrieval")
    gin.parse_config("mixtures.rate.temperature = 1.0")
    paper = found.get_rate(retrieval)
    gin.parse_config("targets.targets.of = {'retrieval': 'every'}")
    assert found.get_rate(retrieval) == retrieval.source.num_examples() > paper


def test_every_target_resumes(monkeypatch):
    monkeypatch.setattr(training, "BLOCK", 256)

    def batches(num, start=0):
        made = training_batches("gift_cards_ids_raat", LENGTHS, 4, 3, start)
        return list(itertools.islice(made, num))

    whole = batches(60)
    for start in (1, 58):
        for one, other in zip(batches(2, start), whole[start : start + 2], strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"retreival": "every"}, r"got {'retreival': 'every'}, .* retrieval, ranking"),
        ({"mim": "every"}, "got {'mim': 'every'}, expected targets by kind of task"),
        ("every", "got 'every', expected targets by kind of task"),
        ({"bpr": "all"}, r"targets\.of\['bpr'\]: got 'all', expected 'last', 'every' or 'random'"),
        ({"ids_rating": "random"}, "got 'random', expected 'last' or 'every'"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_what_is_right(given, message):
    gin.parse_config(f"targets.targets.of = {given!r}")
    with pytest.raises(UserError, match=message):
        seqio.TaskRegistry.get("gift_cards_retrieval").source.num_examples()


def test_a_sources_wrong_targets_are_an_error():
    with pytest.raises(
        UserError, match="got 'first', expected 'last', 'every', 'random' or 'whole'"
    ):
        SequenceSource("gift_cards", targets="first")
