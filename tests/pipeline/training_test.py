"""Training batches: a step is the same after any resume, on any number of cores and hosts."""

import collections
import itertools
import weakref

import gin
import numpy as np
import psutil
import pytest
import seqio
import tensorflow as tf

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.errors import UserError
from recllm_tasks.pipeline import packing, training
from recllm_tasks.pipeline.examples import SIDES, is_batched, training_batches_of
from recllm_tasks.pipeline.training import blocks_of, training_batches
from recllm_tasks.prompts.batches import keep, unbatch
from recllm_tasks.prompts.source import ALL, Shard

MIXTURE = "gift_cards_raat"
LENGTHS = {"inputs": 512, "targets": 64}
KINDS = ("retrieval", "ranking", "rating", "mim", "mlm", "bpr", "ie")
P5_KINDS = ("p5_retrieval", "p5_ranking", "p5_rating")
SAMPLED = ("mim", "mlm", "bpr")

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch):
    """Many blocks, so that batches span several."""
    monkeypatch.setattr(training, "BLOCK", 256)


def _batches(num, seed=3, mixture=MIXTURE, size=4, **settings):
    return list(itertools.islice(training_batches(mixture, LENGTHS, size, seed, **settings), num))


def _equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def _rows(num, pack, shard=ALL):
    """The first `num` rows."""
    batches = _batches(-(-num // 32), size=32, pack=pack, shard=shard)
    return {name: np.concatenate([batch[name] for batch in batches])[:num] for name in batches[0]}


def _examples(batch):
    """A batch of a task's examples or a block as (inputs, targets), lists of tokens."""
    return list(zip(*(batch[side].to_list() for side in SIDES), strict=True))


def _trained_on(task, num, size=61, lengths=LENGTHS, seed=0):
    """The first `num` examples that training on a task sees."""
    batches = map(_examples, training_batches_of(task, lengths, size, seed))
    return list(itertools.islice(itertools.chain.from_iterable(batches), num))


def _one_by_one(found, num, lengths=LENGTHS, seed=0):
    dataset = found.get_dataset(lengths, split="train", shuffle=True, seed=seed, num_epochs=None)
    return [
        (example["inputs"].tolist(), example["targets"].tolist())
        for example in itertools.islice(dataset.as_numpy_iterator(), num)
    ]


def _windows(task, num, shuffle=True, seed=0, size=61):
    """(user, start) of the first `num` windows of endless training."""
    batches = task.source.training_batches(size, shuffle=shuffle, seed=seed, endless=True)
    windows = unbatch(batches).map(lambda window: (window["user"], window["window"]))
    return [(user, int(start)) for user, start in windows.take(num).as_numpy_iterator()]


class TestSteps:
    def test_a_step_does_not_depend_on_the_cores(self, monkeypatch):
        made = []
        for cores in (1, 4):
            options = tf.data.Options()
            options.threading.private_threadpool_size = cores
            options.threading.max_intra_op_parallelism = cores
            monkeypatch.setattr(
                training,
                "blocks_of",
                lambda *args, options=options: blocks_of(*args).with_options(options),
            )
            made.append(_batches(60, workers=cores))
        assert all(map(_equal, *made))

    @pytest.mark.parametrize("pack", [True, pytest.param(False, marks=pytest.mark.slow)])
    def test_a_run_resumes_with_the_batch_it_would_have_seen(self, pack):
        features = packing.PACKED if pack else packing.PADDED
        whole = _batches(130, pack=pack)
        assert all(batch.keys() == set(features) for batch in whole)
        assert all(batch["encoder_input_tokens"].shape == (4, 512) for batch in whole)
        for start in (1, 37, 128):
            later = _batches(2, pack=pack, start_step=start)
            assert all(map(_equal, later, whole[start : start + 2]))
        assert not _equal(whole[0], whole[1])

    def test_another_seed_is_another_run(self):
        assert not _equal(_batches(1, seed=1)[0], _batches(1, seed=2)[0])

    def test_rows_hold_several_examples_and_little_padding(self, monkeypatch):
        monkeypatch.setattr(training, "BLOCK", 4096)
        # Room enough for targets, of which the small dataset's are long beside its inputs.
        lengths = {"inputs": 512, "targets": 256}
        made = list(itertools.islice(training_batches(MIXTURE, lengths, 4, 3), 400))
        assert made[0]["encoder_segment_ids"].max() > 1
        assert training.num_examples(made[0]) > 4
        padding = 1 - np.mean([batch["encoder_input_tokens"] > 0 for batch in made])
        assert padding < 0.05

    @pytest.mark.slow
    @pytest.mark.parametrize("mixture", ["gift_cards_raat", "gift_cards_ut_at"])
    def test_200_steps_with_three_kills(self, mixture):
        whole = _batches(200, 0, mixture, 16)
        done = 0
        for killed_at in (17, 90, 161, 200):
            part = training_batches(mixture, LENGTHS, 16, 0, start_step=done)
            for step, batch in zip(range(done, killed_at), part):
                assert _equal(batch, whole[step]), step
            done = killed_at

    @pytest.mark.slow
    def test_memory_stays_flat_over_ten_epochs(self, monkeypatch):
        monkeypatch.setattr(training, "BLOCK", 4096)
        task = seqio.TaskRegistry.get("gift_cards_retrieval")
        epoch, seen, used = 4 * task.source.num_examples(), 0, []
        # The small dataset's epoch is short: these are epochs of 100 of it.
        for batch in training_batches(MIXTURE, LENGTHS, 64, 0):
            seen += training.num_examples(batch)
            if seen > 100 * epoch * (len(used) + 1):
                used.append(psutil.Process().memory_info().rss)
                if len(used) == 10:
                    break
        assert max(used[2:]) < 1.05 * used[1], [size >> 20 for size in used]


class TestHosts:
    @pytest.mark.parametrize(
        "name",
        [
            "gift_cards_mim",
            pytest.param("gift_cards_raat", marks=pytest.mark.slow),
            "gift_cards_ut_ie",
        ],
    )
    def test_hosts_take_the_blocks_of_one_in_turn(self, name):
        found, hosts = seqio.get_mixture_or_task(name), 4
        alone = [_examples(block) for block in blocks_of(found, LENGTHS, 3).take(3 * hosts)]
        parts = [
            [_examples(block) for block in blocks_of(found, LENGTHS, 3, shard).take(3)]
            for shard in (Shard(host, hosts) for host in range(hosts))
        ]
        assert [block for blocks in zip(*parts) for block in blocks] == alone

    @pytest.mark.slow
    @pytest.mark.parametrize("pack", [True, False])
    def test_hosts_share_the_rows_of_one(self, pack):
        hosts, blocks = 4, 2
        found = seqio.get_mixture_or_task(MIXTURE)
        sizes = []
        for block in blocks_of(found, LENGTHS, 3).take(hosts * blocks):
            lengths = [block[side].row_lengths().numpy() for side in SIDES]
            row_of = packing.plan(*lengths, *LENGTHS.values()) if pack else range(len(lengths[0]))
            sizes.append(max(row_of) + 1)
        ends = np.cumsum(sizes)
        alone = _rows(ends[-1], pack)
        for host in range(hosts):
            # Every fourth of the blocks that one host alone would see.
            own = [np.arange(end - size, end) for end, size in zip(ends, sizes)][host::hosts]
            places = np.concatenate(own)
            shared = _rows(len(places), pack, Shard(host, hosts))
            assert _equal(shared, {name: rows[places] for name, rows in alone.items()}), host

    def test_a_host_resumes_with_the_batch_it_would_have_seen(self):
        shard = Shard(2, 3)
        whole = _batches(40, shard=shard)
        assert all(map(_equal, _batches(3, shard=shard, start_step=37), whole[37:]))


class TestEpochs:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_epoch_has_every_example_once_in_another_order(self, kind, monkeypatch):
        source = seqio.TaskRegistry.get(f"gift_cards_{kind}").source
        count = source.num_examples()
        monkeypatch.setattr(source, "cut", lambda numbers: {"number": numbers})
        batches = source.training_batches(61, seed=0, endless=True)
        numbers = unbatch(batches).map(lambda example: example["number"]).take(3 * count)
        numbers = list(numbers.as_numpy_iterator())
        epochs = [numbers[i * count : (i + 1) * count] for i in range(3)]
        for epoch in epochs:
            assert sorted(epoch) == list(range(count))
        for one, other in itertools.combinations([*epochs, list(range(count))], 2):
            # Of independent orders one example on average keeps its place.
            assert sum(a == b for a, b in zip(one, other)) < 10

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_epoch_draws_anew_what_is_sampled_and_nothing_else(self, kind):
        task = seqio.TaskRegistry.get(f"gift_cards_{kind}")
        count = task.source.num_examples()
        made = [str(example) for example in _trained_on(task, 2 * count)]
        assert len(made) == 2 * count
        first, second = collections.Counter(made[:count]), collections.Counter(made[count:])
        if kind in SAMPLED:
            assert (first & second).total() < count / 2
        else:
            assert first == second

    def test_the_order_is_independent_of_the_size_of_batches(self):
        task = seqio.TaskRegistry.get("gift_cards_retrieval")
        assert _windows(task, 300) == _windows(task, 300, size=7) == _windows(task, 300, size=33.3)
        assert _windows(task, 300) != _windows(task, 300, seed=1)

    def test_one_epoch_of_seqio_has_every_window_once_and_mixes_users(self):
        task = seqio.TaskRegistry.get("gift_cards_retrieval")

        def epochs(seed):
            dataset = task.get_dataset(
                LENGTHS, split="train", shuffle=True, seed=seed, num_epochs=2
            )
            return [(e["user"], int(e["window"])) for e in dataset.as_numpy_iterator()]

        count = task.source.num_examples()
        in_order = _windows(task, count, shuffle=False)
        made = epochs(0)
        one, other = made[:count], made[count:]
        assert sorted(one) == sorted(other) == sorted(in_order)
        assert len(set(one)) == count
        assert one != other
        assert epochs(0) == made
        assert epochs(1) != made
        neighbours = [
            sum(a[0] == b[0] for a, b in itertools.pairwise(windows)) for windows in (in_order, one)
        ]
        assert neighbours[1] < neighbours[0] / 2


class TestRates:
    @pytest.mark.parametrize(
        "rates",
        [
            pytest.param((1.0, 1.0, 1.0), marks=pytest.mark.slow),
            (1.0, 0.37, 0.0005),
            pytest.param((2.5, 0.0, 1.0), marks=pytest.mark.slow),
        ],
    )
    def test_every_task_has_exactly_its_share(self, rates):
        kinds, blocks = ("retrieval", "rating", "ie"), 40
        names = [f"gift_cards_{kind}" for kind in kinds]
        mixture = seqio.Mixture("shares", list(zip(names, rates)))
        lengths = {"inputs": 512, "targets": 512}
        counts = collections.Counter()
        for number, block in enumerate(blocks_of(mixture, lengths, 0).take(blocks), 1):
            inputs = block["inputs"]
            assert abs(len(inputs.to_list()) - training.BLOCK) <= len(rates)
            counts.update(_kind(row) for row in _texts(inputs))
            for kind, rate in zip(kinds, rates):
                due = number * training.BLOCK * rate / sum(rates)
                assert due - 1 <= counts[kind] <= due + 1
        assert sum(counts.values()) == pytest.approx(blocks * training.BLOCK, abs=len(rates))


def _texts(inputs):
    vocabulary = seqio.TaskRegistry.get("gift_cards_ie").output_features["inputs"].vocabulary
    return map(vocabulary.decode, inputs.to_list())


def _kind(text):
    if text.startswith("What's the"):
        return "ie"
    return "rating" if "Answer yes or no" in text else "retrieval"


_BEYOND = (
    ("retrieval", "targets.targets.of = {'retrieval': 'random'}"),
    ("ranking", "targets.targets.of = {'ranking': 'random'}"),
    ("ids_ranking", "targets.targets.of = {'ids_ranking': 'random'}"),
    ("ranking", "candidates.ranking_negatives.each_epoch = True"),
)


class TestTasks:
    @pytest.mark.parametrize("kind", [*KINDS, *P5_KINDS, "ids_rating", "ids_mim", "ids_bpr"])
    def test_batches_have_the_examples_of_seqio(self, kind):
        task = seqio.TaskRegistry.get(f"gift_cards_{kind}")
        assert is_batched(task)
        # Lengths in which not every history fits. A hundred numbers take more tokens than a
        # hundred ids that are one piece each. SeqIO's batches have as many examples.
        lengths = {"inputs": 400 if kind == "p5_ranking" else 230, "targets": 40}
        count = task.source.num_examples()
        made = _trained_on(task, count, 1024, lengths, seed=3)
        assert made == _one_by_one(task, count, lengths, seed=3)

    @pytest.mark.parametrize(("kind", "setting"), _BEYOND)
    def test_settings_beyond_the_paper(self, kind, setting):
        task = seqio.TaskRegistry.get(f"gift_cards_{kind}")
        count = task.source.num_examples()
        without = _trained_on(task, count, 1024)
        evaluation = list(task.get_dataset(LENGTHS, "test", shuffle=False).as_numpy_iterator())
        gin.parse_config(setting)
        count = task.source.num_examples()
        examples = _trained_on(task, 2 * count, 1024)
        assert examples[:count] == _one_by_one(task, count)
        assert examples[:count] != without[:count]
        assert sorted(examples[:count]) != sorted(examples[count:])
        again = task.get_dataset(LENGTHS, "test", shuffle=False).as_numpy_iterator()
        for one, other in zip(evaluation, again, strict=True):
            assert one["inputs"].tolist() == other["inputs"].tolist()
            assert one["targets"].tolist() == other["targets"].tolist()

    def test_a_step_on_single_examples_follows_unbatch(self):
        ours = seqio.TaskRegistry.get("gift_cards_retrieval")

        def shout(example):
            return {**example, "targets": tf.concat([example["targets"], [1]], axis=0)}

        custom = seqio.TaskRegistry.add(
            "custom_single",
            source=ours.source,
            output_features=ours.output_features,
            preprocessors=[*ours.preprocessors, seqio.map_over_dataset(shout)],
            shuffle_buffer_size=None,
        )
        try:
            assert not is_batched(custom)
            count = custom.source.num_examples()
            expected = [(i, [*t, 1]) for i, t in _trained_on(ours, count, 1024)]
            assert _trained_on(custom, count) == expected
            batch, again = (_batches(3, mixture="custom_single")[2] for _ in range(2))
            assert _equal(batch, again)
            assert batch["decoder_target_tokens"].shape == (4, 64)
        finally:
            seqio.TaskRegistry.remove("custom_single")

    def test_any_source_of_seqio_trains(self):
        features = seqio.TaskRegistry.get("gift_cards_retrieval").output_features

        def read(split, shuffle_files, seed=None):
            texts = {"inputs": [f"Item ID: I{n}" for n in range(1, 31)], "targets": ["yes"] * 30}
            return tf.data.Dataset.from_tensor_slices(texts)

        custom = seqio.TaskRegistry.add(
            "custom_source",
            source=seqio.FunctionDataSource(read, splits=["train"]),
            output_features=features,
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        )
        try:
            made = [str(example) for example in _trained_on(custom, 300)]
            assert len(set(made)) == 30
            assert made == [str(example) for example in _trained_on(custom, 300)]
            for pack in (True, False):
                batches = _batches(5, mixture="custom_source", pack=pack)
                assert all(batch["encoder_input_tokens"].shape == (4, 512) for batch in batches)
                later = _batches(1, mixture="custom_source", pack=pack, start_step=4)
                assert _equal(later[0], batches[4])
        finally:
            seqio.TaskRegistry.remove("custom_source")


class TestResumedRuns:
    def test_a_run_resumes_at_every_row_around_the_end_of_a_block(self):
        """The last row of a block, its end, and the row after it."""
        block = next(iter(blocks_of(seqio.get_mixture_or_task(MIXTURE), LENGTHS, 3)))
        sizes = [np.diff(block[side].row_splits.numpy()) for side in SIDES]
        end = int(packing.plan(*sizes, *LENGTHS.values()).max()) + 1
        rows = _rows(end + 3, pack=True)
        for start in range(end - 2, end + 3):
            (batch,) = _batches(1, size=1, start_step=start)
            for name, values in batch.items():
                np.testing.assert_array_equal(values[0], rows[name][start])

    def test_blocks_that_are_used_are_not_kept(self):
        """A resumed run looks ahead for its place, and must forget what it saw."""
        alive = weakref.WeakSet()

        class Block:
            def __init__(self):
                alive.add(self)

        class Rows:
            def count(self, block):
                return 3

            def make(self, block):
                return {"encoder_input_tokens": np.zeros([3, 1])}

        blocks = (Block() for _ in itertools.count())
        made = training._rows(blocks, Rows(), 10, workers=2)
        for _ in range(100):
            next(made)
        assert len(alive) < 12


def test_tasks_without_a_share_are_refused(clean_gin):
    gin.parse_config("mixtures.rate.rates = {'ranking': 0, 'mim': 0, 'mlm': 0, 'bpr': 0}")
    with pytest.raises(UserError, match=r"Nothing to train on in 'gift_cards_raat'"):
        _batches(1)


def test_a_task_whose_steps_leave_no_example_is_refused():
    ours = seqio.TaskRegistry.get("gift_cards_retrieval")

    def drop_all(dataset):
        return dataset.map(lambda batch: keep(batch, batch["target"] < 0))

    seqio.TaskRegistry.add(
        "drops_all",
        source=ours.source,
        preprocessors=[drop_all, *ours.preprocessors],
        output_features=ours.output_features,
        shuffle_buffer_size=None,
    )
    try:
        with pytest.raises(UserError, match="Nothing to train on in 'drops_all'"):
            _batches(1, mixture="drops_all")
    finally:
        seqio.TaskRegistry.remove("drops_all")


def test_a_task_that_ends_in_batches_is_refused():
    ours = seqio.TaskRegistry.get("gift_cards_retrieval")
    seqio.TaskRegistry.add(
        "no_unbatch",
        source=ours.source,
        preprocessors=ours.preprocessors[:-1],
        output_features=ours.output_features,
        shuffle_buffer_size=None,
    )
    try:
        with pytest.raises(UserError, match=r"no_unbatch.*expected `unbatch`"):
            tasks.get("no_unbatch")
    finally:
        seqio.TaskRegistry.remove("no_unbatch")


@pytest.mark.parametrize("kind", ["ids_sequence", "ids_reat", "reat"])
def test_the_steps_of_an_epoch_read_each_example_of_one_task_about_once(kind):
    mixture, lengths = f"gift_cards_{kind}", {"inputs": 512, "targets": 128}
    if kind == "ids_reat":
        lengths = {"inputs": 64, "targets": 16}
    steps = training.epoch_steps(mixture, lengths, 4)
    found = seqio.get_mixture_or_task(mixture)
    first = min(task.source.num_examples() for task in seqio.get_subtasks(found))
    seen, batches = 0, training.training_batches(mixture, lengths, 4, 0)
    for _, batch in zip(range(steps), batches):
        seen += training.num_examples(batch)
    batches.close()
    assert seen == pytest.approx(first * len(seqio.get_subtasks(found)), rel=0.1)
    assert training.epoch_steps(mixture, lengths, 4, 10) == pytest.approx(10 * steps, rel=0.2)
    assert training.epoch_steps(mixture, lengths, 4000, 0.1) == 1
    with pytest.raises(UserError, match="EPOCHS: got -1, expected"):
        training.epoch_steps(mixture, lengths, 4, -1)
