"""Every task on a whole small dataset: counts, seeds, leaks, and what a user may register."""

import contextlib
import dataclasses
import functools
import itertools

import numpy as np
import pytest
import seqio

import recllm_tasks.mixtures as mixtures
from recllm_tasks import tasks
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import templates
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.prompts.source import SequenceSource

LENGTHS = {"inputs": 1024, "targets": 128}
IDS = ("ids_retrieval", "ids_ranking", "ids_rating", "ids_mim", "ids_bpr")
TRAINING = ("retrieval", "ranking", "rating", "mim", "mlm", "bpr", "ie", *IDS)
EVERY_TARGET = ("ids_retrieval", "ids_ranking", "ids_rating", "ids_bpr")
SAMPLED = ("mim", "mlm", "bpr", "ids_mim", "ids_bpr")


@functools.cache
def _examples(kind, split="train", seed=0, epochs=1, shuffle=False, dataset="gift_cards"):
    task = seqio.TaskRegistry.get(f"{dataset}_{kind}")
    found = task.get_dataset(LENGTHS, split=split, shuffle=shuffle, seed=seed, num_epochs=epochs)
    return list(found.as_numpy_iterator())


@functools.cache
def _records(split):
    records = SequenceSource("gift_cards").records(split).as_numpy_iterator()
    return {record["user"]: record for record in records}


_OPENED = contextlib.ExitStack()


@functools.cache
def _vocabulary(kind, side):
    """The file is looked up once: looking takes longer than decoding."""
    vocabulary = seqio.TaskRegistry.get(f"gift_cards_{kind}").output_features[side].vocabulary
    _OPENED.enter_context(vocabulary.opened())
    return vocabulary


def _text(kind, example, side="inputs"):
    return _vocabulary(kind, side).decode_with_sentinels(example[side].tolist())


@pytest.mark.usefixtures("small_data")
class TestTasks:
    @pytest.fixture(scope="class", autouse=True)
    def _close_vocabularies(self):
        yield
        _OPENED.close()
        _vocabulary.cache_clear()

    @pytest.mark.parametrize("kind", [k for k in TRAINING if k not in ("ie", *EVERY_TARGET)])
    def test_training_examples_are_the_windows(self, kind):
        expected = sum(max(1, len(r["items"]) - 20) for r in _records("train").values())
        assert len(_examples(kind)) == expected
        assert expected > len(_records("train")), "some user has more than one window"

    @pytest.mark.parametrize(
        "kind", ["retrieval", "ranking", "rating", "ids_retrieval", "ids_ranking", "ids_rating"]
    )
    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_evaluation_has_one_example_a_user_and_its_held_out_target(self, kind, split):
        records = _records(split)
        examples = _examples(kind, split)
        assert {example["user"] for example in examples} == set(records)
        for example in examples:
            record = records[example["user"]]
            assert example["target"] == record["items"][-1]
            kept = len(example["history"])
            assert example["history"].tolist() == record["items"][-1 - kept : -1].tolist()
            assert kept == min(20, len(record["items"]) - 1)

    @pytest.mark.parametrize("kind", [*SAMPLED, "ie"])
    def test_auxiliary_tasks_have_training_examples_only(self, kind):
        assert list(seqio.TaskRegistry.get(f"gift_cards_{kind}").splits) == ["train"]

    @pytest.mark.parametrize("kind", TRAINING)
    def test_nothing_held_out_is_in_a_training_example(self, kind):
        train = _records("train")
        for example in _examples(kind):
            if kind == "ie":
                continue
            own = set(train[example["user"]]["items"].tolist())
            assert set(example["history"].tolist()) <= own
            assert int(example["target"]) in own

    @pytest.mark.parametrize("kind", TRAINING)
    def test_the_seed_fixes_everything(self, kind):
        again = _examples.__wrapped__(kind, shuffle=True)
        for one, other in zip(_examples(kind, shuffle=True), again, strict=True):
            assert one["inputs"].tolist() == other["inputs"].tolist()
            assert one["targets"].tolist() == other["targets"].tolist()

    @pytest.mark.parametrize("kind", TRAINING)
    def test_another_epoch_samples_anew_what_is_sampled_and_nothing_else(self, kind):
        examples = _examples(kind, epochs=2)
        half = len(examples) // 2
        changed = [
            one["inputs"].tolist() != other["inputs"].tolist()
            or one["targets"].tolist() != other["targets"].tolist()
            for one, other in zip(examples[:half], examples[half:])
        ]
        assert any(changed) == (kind in SAMPLED)

    @pytest.mark.parametrize("kind", [k for k in TRAINING if k not in SAMPLED])
    def test_another_seed_changes_no_fixed_example(self, kind):
        for one, other in zip(_examples(kind, seed=0), _examples(kind, seed=5)):
            assert one["inputs"].tolist() == other["inputs"].tolist()

    def test_shuffling_mixes_users(self):
        users = [example["user"] for example in _examples("retrieval", shuffle=True)]
        unshuffled = [example["user"] for example in _examples("retrieval")]
        assert sorted(users) == sorted(unshuffled)
        neighbours = [one == other for one, other in itertools.pairwise(users)]
        before = [one == other for one, other in itertools.pairwise(unshuffled)]
        assert sum(neighbours) < sum(before) or sum(before) == 0

    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    def test_ranking_lists_the_target_once_among_99_negatives(self, split):
        records = _records(split)
        places = []
        for example in _examples("ranking", split):
            candidates = example["candidates"].tolist()
            own = set(records[example["user"]]["items"].tolist())
            assert len(candidates) == 100
            assert candidates.count(example["target"]) == 1
            assert own.isdisjoint(set(candidates) - {example["target"]})
            places.append(candidates.index(example["target"]))
            if split != "train":
                negatives = [row for row in candidates if row != example["target"]]
                assert negatives == records[example["user"]]["negatives"].tolist()
        assert np.std(places) > 20, "the target's place is spread (uniform: 29)"

    def test_bpr_offers_the_target_and_an_item_that_the_user_does_not_have(self):
        train = _records("train")
        first = []
        for example in _examples("bpr"):
            pair = example["pair"].tolist()
            assert example["target"] in pair
            (negative,) = [row for row in pair if row != example["target"]]
            assert negative not in train[example["user"]]["items"]
            first.append(pair[0] == example["target"])
        assert 0.2 < np.mean(first) < 0.8

    def test_rating_splits_the_history_by_stars_and_asks_for_the_target(self):
        for example in _examples("rating", "test"):
            stars = _records("test")[example["user"]]["ratings"]
            history = stars[-1 - len(example["history"]) : -1]
            assert example["liked"].tolist() == (history > 3).tolist()
            assert _text("rating", example, "targets") == ("yes" if stars[-1] > 3 else "no")

    def test_mim_hides_a_fifth_and_asks_for_it_in_order(self):
        for example in _examples("mim"):
            size = len(example["history"])
            assert example["masked"].sum() == max(1, round(0.2 * size))
            text = _text("mim", example)
            assert text.count("[masked item];") == example["masked"].sum()
            catalog = SequenceSource("gift_cards").catalog()
            asked = [catalog.short_id[row] for row in example["history"][example["masked"]]]
            answer = _text("mim", example, "targets")
            assert [part.split(",")[0] for part in answer.split("Item ID: ")[1:]] == asked
            assert all(f"Item ID: {item}," not in text for item in asked)

    @pytest.mark.parametrize(
        ("kind", "splits"),
        [(kind, ("train",) if kind in SAMPLED else ("train", "test")) for kind in IDS],
    )
    def test_prompts_of_ids_hold_ids_and_marks_alone(self, kind, splits):
        names = np.array(SequenceSource("gift_cards").catalog().short_id)
        for example in itertools.chain(*(_examples(kind, split) for split in splits)):
            ids = {
                name: names[np.atleast_1d(example[name])]
                for name in ("history", "target", "candidates", "pair")
                if name in example
            }
            history, target = ids["history"], ids["target"]
            if kind == "ids_retrieval":
                inputs = [*history]
            elif kind == "ids_ranking":
                inputs = [*history, "of", *ids["candidates"]]
            elif kind == "ids_bpr":
                inputs = [*history, "or", *ids["pair"]]
            elif kind == "ids_rating":
                liked, disliked = history[example["liked"]], history[example["disliked"]]
                inputs = ["like", *liked, "dislike", *disliked, "rate", *target]
                target = ["yes" if example["target_rating"] > 3 else "no"]
            else:
                inputs, target = (
                    np.where(example["masked"], "*", history),
                    history[example["masked"]],
                )
                assert len(target) == max(1, round(0.2 * len(history)))
            assert _text(kind, example).split() == [*inputs]
            assert _text(kind, example, "targets").split() == [*target]

    @pytest.mark.parametrize("kind", IDS)
    def test_each_id_and_mark_of_ids_is_one_token(self, kind):
        """The small dataset's ids are one piece each, as atomic ids are; its vocabulary is own."""
        for example in _examples(kind):
            words = [_text(kind, example, side).split() for side in ("inputs", "targets")]
            assert [len(example[side]) for side in ("inputs", "targets")] == [
                1 + len(side) for side in words
            ]

    def test_item_embedding_asks_for_every_known_attribute(self):
        asked = {_text("ie", example) for example in _examples("ie")}
        catalog = SequenceSource("gift_cards").catalog()
        expected = {
            f"What's the {attribute} of {short_id}?"
            for attribute in templates.ITEM_ATTRIBUTES
            for short_id, text in zip(catalog.short_id, getattr(catalog, attribute))
            if text
        }
        assert asked == expected

    @pytest.mark.parametrize("mixture", list(mixtures.TASKS_OF))
    def test_mixtures_yield_examples(self, mixture):
        found = tasks.get(f"gift_cards_{mixture}")
        dataset = found.get_dataset(LENGTHS, split="train", shuffle=True, seed=0)
        assert len(list(dataset.take(5))) == 5
        names = {task.name for task in found.tasks}
        assert names == {f"gift_cards_{kind}" for kind in mixtures.TASKS_OF[mixture]}

    @pytest.mark.parametrize(
        ("task", "kind"),
        [
            ("my_shop_retrieval", "retrieval"),
            ("my_shop_ids_ranking", "ranking"),
            ("my_shop_p5_rating", "rating"),
            ("my_shop_p5_retrieval_2_7", "retrieval"),
            ("my_shop_ids_mim", None),
            ("my_shop_mim", None),
            ("my_shop_big_retrieval", None),
            ("other_retrieval", None),
            ("my_shop_retrieval_mlm", None),
        ],
    )
    def test_a_tasks_name_tells_what_it_measures(self, task, kind):
        assert tasks.kind_of(task, "my_shop") == kind

    @pytest.mark.parametrize(
        ("mixture", "kind"),
        [
            ("gift_cards_ut", "retrieval"),
            ("gift_cards_p5", "retrieval"),
            ("gift_cards_ids_reat", "ids_retrieval"),
            ("gift_cards_ids_ranking", "ids_retrieval"),
            ("not_here_ids_reat", "retrieval"),
        ],
    )
    def test_a_model_answers_the_retrieval_that_it_learned(self, mixture, kind):
        assert tasks.retrieval_kind(mixture, "gift_cards") == kind
        both = seqio.Mixture("both", [(f"gift_cards_{k}", 1.0) for k in ("ie", kind)])
        seqio.MixtureRegistry.add_provider("both", both)
        try:
            assert tasks.retrieval_kind("both", "gift_cards") == kind
        finally:
            seqio.MixtureRegistry.remove("both")

    def test_a_mixture_that_is_not_registered_is_known_by_its_name(self):
        """As in a program that loads a run of a custom dataset."""
        kinds = {"ids_sequence": "ids_sequence", "ids_sequence_ut": "ids_sequence"}
        kinds |= {"ids_reat": "ids_retrieval", "ut_at": "retrieval"}
        for name, kind in kinds.items():
            assert tasks.retrieval_kind(f"unknown_{name}", "unknown") == kind

    def test_rates_come_from_gin(self, clean_gin):
        import gin

        found = tasks.get("gift_cards_reat")
        task = seqio.TaskRegistry.get("gift_cards_mim")
        assert found.get_rate(task) == 1.0
        gin.parse_config("mixtures.rate.rates = {'mim': 0.25}")
        assert found.get_rate(task) == 0.25

    def test_rates_by_temperature_follow_the_numbers_of_examples(self, clean_gin):
        import gin

        found = tasks.get("gift_cards_ut_ie")
        counts = {kind: len(_examples(kind)) for kind in ("retrieval", "ie")}
        assert counts["ie"] != counts["retrieval"]
        for temperature in (1.0, 2.0):
            gin.parse_config(f"mixtures.rate.temperature = {temperature}")
            for kind, count in counts.items():
                rate = found.get_rate(seqio.TaskRegistry.get(f"gift_cards_{kind}"))
                assert rate == pytest.approx(count ** (1 / temperature))
        gin.parse_config("mixtures.rate.temperature = 0")
        with pytest.raises(UserError, match="got 0, expected more than 0"):
            found.get_rate(seqio.TaskRegistry.get("gift_cards_ie"))

    def test_a_user_hosts_sees_each_example_once(self):
        task = seqio.TaskRegistry.get("gift_cards_retrieval")
        every = [e["inputs"].tolist() for e in _examples("retrieval")]
        sharded = [
            e["inputs"].tolist()
            for index in range(3)
            for e in task.get_dataset(
                LENGTHS, split="train", shuffle=False, shard_info=seqio.ShardInfo(index, 3)
            ).as_numpy_iterator()
        ]
        assert sorted(sharded) == sorted(every)


def test_a_dataset_that_is_not_prepared_is_an_error_with_the_command(tmp_path):
    seqio.set_tfds_data_dir_override(str(tmp_path))
    with pytest.raises(UserError, match=r"'beauty' is not prepared .* run `recllm prepare beauty"):
        tasks.get("beauty_ie")
    with pytest.raises(UserError, match=r"'beauty' is not prepared .* run `recllm prepare beauty"):
        tasks.get("beauty_retrieval")
    seqio.set_tfds_data_dir_override(None)


def test_an_unknown_name_suggests_known_ones():
    with pytest.raises(UserError, match="toys_retrieval"):
        tasks.get("toys_retreival")


def test_without_ratings_rating_is_refused_with_the_reason(monkeypatch, small_data):
    source = seqio.TaskRegistry.get("gift_cards_rating").source
    info = dataclasses.replace(source.info(), has_ratings=False)
    monkeypatch.setattr(type(source), "info", lambda self: info)
    for name in ("gift_cards_rating", "gift_cards_ut", "gift_cards_ut_at", "gift_cards_rpat"):
        with pytest.raises(UserError, match=r"Rating is not offered .* without ratings"):
            tasks.get(name)
    with pytest.raises(UserError, match="Rating is not offered"):
        seqio.TaskRegistry.get("gift_cards_rating").get_dataset(LENGTHS, split="train")
    tasks.get("gift_cards_reat")


def test_log_odds_compare_the_two_answers():
    beams = [["no", "yes"], ["yes", "no"], ["", "yes"]]
    scores = np.array([[-2.0, -0.1], [-3.0, -0.05], [-1e7, -0.2]])
    log_odds = tasks.answer_log_odds((("no",), ("yes",)), beams, scores)
    assert log_odds == pytest.approx([1.9, -2.95, -0.2 + 1e7])


@pytest.mark.usefixtures("small_data")
def test_answers_follow_from_the_template():
    source = SequenceSource("gift_cards")
    assert tasks.answers(seqio.TaskRegistry.get("gift_cards_rating")) == ["no", "yes"]
    retrieval = seqio.TaskRegistry.get("gift_cards_retrieval")
    assert tasks.answers(retrieval) == source.catalog().short_id
    assert tasks.answers(seqio.TaskRegistry.get("gift_cards_mim")) is None
    template = templates.Template(("A:",), (templates.Items("target", "{title}"),))
    own = seqio.Task("own", source, tasks.features(source), [Prompt(template, source)])
    assert tasks.answers(own) == source.catalog().title


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "folder", "count"), [("toys", "toys_and_games", 30_761), ("beauty", "beauty", 36_582)]
)
def test_training_examples_are_as_many_as_in_table_10(name, folder, count, shared, tmp_path):
    from recllm_tasks.data.prepare import prepare
    from recllm_tasks.prompts.vocabulary_training import ensure_vocabulary

    prepare(name, tmp_path, shared / "data" / folder)
    seqio.set_tfds_data_dir_override(str(tmp_path))
    ensure_vocabulary(SequenceSource(name))
    try:
        assert len(_examples("retrieval", dataset=name)) == count
        assert len(_examples("retrieval", "validation", dataset=name)) == 3000
    finally:
        seqio.set_tfds_data_dir_override(None)


def test_the_size_of_a_vocabulary_is_a_round_number_that_holds_it(small_data):
    name = "gift_cards_retrieval"
    size = tasks.get(name).output_features["inputs"].vocabulary.vocab_size
    found = tasks.vocabulary_size(name)
    assert found % 128 == 0
    assert size <= found < size + 128
    assert tasks.vocabulary_size(name, 1) == size
