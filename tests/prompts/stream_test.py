"""Examples made in batches are those that SeqIO makes one by one, in the same order."""

import itertools

import gin
import pytest
import seqio

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks.prompts import stream
from recllm_tasks.prompts.stream import Examples, Shard

LENGTHS = {"inputs": 512, "targets": 64}
KINDS = ("retrieval", "ranking", "rating", "mim", "mlm", "bpr", "ie")
P5_KINDS = ("p5_retrieval", "p5_ranking", "p5_rating")

ALL = Shard()

pytestmark = pytest.mark.usefixtures("small_data")


def _streamed(found, num, lengths=LENGTHS, seed=0, shard=ALL):
    """The first `num` examples as (inputs, targets), lists of tokens."""
    examples = Examples(found, lengths, seed, shard)
    made = []
    while len(made) < num:
        inputs, targets = examples.make(examples.take())
        made += [(inputs[i].tolist(), targets[i].tolist()) for i in range(len(inputs))]
    return made[:num]


def _one_by_one(found, num, lengths=LENGTHS, seed=0):
    dataset = found.get_dataset(lengths, split="train", shuffle=True, seed=seed, num_epochs=None)
    return [
        (example["inputs"].tolist(), example["targets"].tolist())
        for example in itertools.islice(dataset.as_numpy_iterator(), num)
    ]


@pytest.mark.parametrize("kind", [*KINDS, *P5_KINDS])
def test_a_tasks_examples_are_seqios(kind, monkeypatch):
    monkeypatch.setattr(stream, "STRETCH", 61)
    task = seqio.TaskRegistry.get(f"gift_cards_{kind}")
    assert stream.is_fast(task)
    # Three epochs and more, and lengths in which not every history fits.
    # A hundred numbers take more tokens than a hundred ids that are one piece each.
    lengths = {"inputs": 400 if kind == "p5_ranking" else 230, "targets": 40}
    assert _streamed(task, 400, lengths, seed=3) == _one_by_one(task, 400, lengths, seed=3)


_BEYOND = (
    ("retrieval", "prefixes.random_targets.tasks = ('retrieval', 'ranking')"),
    ("ranking", "prefixes.random_targets.tasks = ('retrieval', 'ranking')"),
    ("ranking", "candidates.ranking_negatives.each_epoch = True"),
)


@pytest.mark.parametrize(("kind", "setting"), _BEYOND)
def test_settings_beyond_the_paper(kind, setting, clean_gin):
    task = seqio.TaskRegistry.get(f"gift_cards_{kind}")
    without = _streamed(task, 150)
    evaluation = list(task.get_dataset(LENGTHS, "test", shuffle=False).as_numpy_iterator())
    gin.parse_config(setting)
    examples = _streamed(task, 150)
    assert examples == _one_by_one(task, 150)
    assert examples != without
    epoch = len(task.source.training_table())
    assert sorted(examples[:epoch]) != sorted(_streamed(task, 2 * epoch)[epoch:])
    again = task.get_dataset(LENGTHS, "test", shuffle=False).as_numpy_iterator()
    for one, other in zip(evaluation, again, strict=True):
        assert one["inputs"].tolist() == other["inputs"].tolist()
        assert one["targets"].tolist() == other["targets"].tolist()


def test_a_mixtures_examples_are_seqios():
    found = seqio.MixtureRegistry.get("gift_cards_ut_at")
    assert _streamed(found, 600) == _one_by_one(found, 600)


@pytest.mark.parametrize("name", ["gift_cards_mim", "gift_cards_raat"])
def test_hosts_share_what_one_host_sees(name):
    found = seqio.get_mixture_or_task(name)
    alone = _streamed(found, 300)
    parts = [_streamed(found, 100, shard=Shard(host, 3)) for host in range(3)]
    assert [example for examples in zip(*parts) for example in examples] == alone


def test_another_epoch_draws_anew():
    task = seqio.TaskRegistry.get("gift_cards_mim")
    epoch = len(task.source.training_table())
    made = _streamed(task, 2 * epoch)
    assert len(made) == 2 * epoch
    same = {str(example) for example in made[:epoch]} & {str(example) for example in made[epoch:]}
    assert len(same) < epoch / 2


def test_a_task_with_a_strange_step_is_read_through_seqio():
    ours = seqio.TaskRegistry.get("gift_cards_retrieval")
    strange = seqio.Task(
        "strange",
        ours.source,
        ours.output_features,
        [*ours.preprocessors, seqio.map_over_dataset(lambda example: example)],
        shuffle_buffer_size=None,
    )
    assert stream.is_fast(ours)
    assert not stream.is_fast(strange)
    assert _streamed(strange, 100) == _streamed(ours, 100)


def test_results_come_in_order_and_errors_reach_the_caller():
    numbers = itertools.count()
    made = stream.made_ahead(lambda: next(numbers), lambda number: 10 // (5 - number), workers=3)
    assert list(itertools.islice(made, 5)) == [2, 2, 3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        next(made)
