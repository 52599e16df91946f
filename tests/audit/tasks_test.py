"""Leaks planted in tasks: each is found in the tokens, and its record is named."""

import itertools
import re

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from recllm_tasks import tasks
from recllm_tasks.audit import examples
from recllm_tasks.audit.examples import BatchReader
from recllm_tasks.audit.records import read_records
from recllm_tasks.data.dataset_info import dataset_dir
from recllm_tasks.prompts import masking, p5, templates
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.prompts.batches import rows_of, unbatch
from recllm_tasks.prompts.source import CatalogSource, ItemSource, SequenceSource
from recllm_tasks.prompts.templates import Items, Template, Wording

NAME = "gift_cards"
KINDS = (*tasks.RECOMMENDATION_TASKS, "mim", "mlm", "bpr")


def arguments_of(kind):
    if kind == "p5_retrieval":
        return tasks.p5_task(NAME, "retrieval", p5.FIGURE_1["retrieval"])
    make = tasks.recommendation_task if kind in tasks.RECOMMENDATION_TASKS else tasks.auxiliary_task
    return make(NAME, kind, Wording())


@pytest.fixture
def leaky(only_tasks):
    """leaky(arguments): registers the task and makes it the only one that is checked."""

    def register(arguments):
        seqio.TaskRegistry.add("leaky", **arguments)
        only_tasks(seqio.TaskRegistry.get("leaky"))

    yield register
    if "leaky" in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove("leaky")


@pytest.fixture
def sequences(small_data_dir):
    """User → whole sequence, as rows of the catalog."""
    builder = tfds.builder_from_directory(dataset_dir(small_data_dir, NAME))
    return {r["user"].decode(): r["items"] for r in tfds.as_numpy(builder.as_dataset("test"))}


def lookup(sequences, place):
    """A function from users' raw ids to one item of each user's whole sequence."""
    values = np.array([items[place] for items in sequences.values()], np.int64)
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(list(sequences)), tf.constant(values)), -1
    )
    return lambda users: tf.cast(table.lookup(users), tf.int32)


def mapped(function):
    return lambda dataset: dataset.map(lambda batch: {**batch, **function(batch)})


def caught(run_audit, data_dir, name):
    code, checks = run_audit(data_dir, "--seeds", "1")
    assert code == 1
    assert not checks[name]["passed"]
    return checks[name]["offender"]


@pytest.mark.parametrize(
    ("kind", "place", "split"),
    [
        *((kind, -1, "test") for kind in KINDS),
        ("retrieval", -2, "validation"),
        ("mlm", -2, "validation"),
    ],
)
def test_a_held_out_item_in_the_history(
    kind, place, split, leaky, sequences, small_data_dir, run_audit
):
    held_out = lookup(sequences, place)

    def swap(batch):
        """Replaces the oldest item of each history by a held-out item."""
        item = held_out(batch["user"])[:, tf.newaxis]
        return {"history": tf.concat([item, batch["history"][:, 1:]], axis=1)}

    arguments = arguments_of(kind)
    leaky({**arguments, "preprocessors": [mapped(swap), *arguments["preprocessors"]]})
    offender = caught(run_audit, small_data_dir, "held_out:leaky:train")
    items = sequences[offender["user"]]
    assert offender["split"] == "train"
    assert offender["position"] == len(items) + place
    assert offender["value"] == f"I{items[place] + 1}"
    assert re.search(
        rf"{split} item, in a train example of the window at \d+ of leaky", str(offender)
    )


@pytest.mark.parametrize("kind", ["retrieval", "ranking", "rating", "bpr", "p5_retrieval"])
def test_a_held_out_item_as_the_target(kind, leaky, sequences, small_data_dir, run_audit):
    held_out = lookup(sequences, -1)
    swap = mapped(lambda batch: {"target": held_out(batch["user"])})
    arguments = arguments_of(kind)
    leaky({**arguments, "preprocessors": [swap, *arguments["preprocessors"]]})
    offender = caught(run_audit, small_data_dir, "held_out:leaky:train")
    assert offender["value"] == f"I{sequences[offender['user']][-1] + 1}"


@pytest.mark.parametrize("side", ["inputs", "targets", "corrupted"])
@pytest.mark.parametrize(("place", "split"), [(-1, "test"), (-2, "validation")])
def test_a_held_out_item_by_its_title_alone(
    side, place, split, leaky, sequences, small_data_dir, run_audit
):
    held_out = lookup(sequences, place)
    add_leaked = mapped(lambda batch: {"leaked": held_out(batch["user"])})
    source = SequenceSource(NAME)
    leaked, words = Items("leaked", "{title}"), ("The user likes", Items("history"))
    template = {
        "inputs": Template((*words, "and also", leaked), (Items("target"),)),
        "targets": Template(words, (leaked,)),
        "corrupted": Template((*words, leaked), ()),
    }[side]
    corrupt = [masking.corrupt_spans] if side == "corrupted" else []
    leaky(
        {
            **arguments_of("retrieval"),
            "source": source,
            "preprocessors": [add_leaked, Prompt(template, source), *corrupt, unbatch],
        }
    )
    offender = caught(run_audit, small_data_dir, "held_out:leaky:train")
    item = sequences[offender["user"]][place]
    assert offender["value"] == f"I{item + 1}"
    assert f"the title of the user's {split} item" in offender["problem"]


def test_the_title_of_an_earlier_item_is_no_leak(leaky, small_data_dir, run_audit):
    source = SequenceSource(NAME)
    template = Template(("After", Items("history")), (Items("target", "{title}"),))
    leaky(
        {
            **arguments_of("retrieval"),
            "source": source,
            "preprocessors": [Prompt(template, source), unbatch],
        }
    )
    code, checks = run_audit(small_data_dir, "--seeds", "1")
    assert code == 0
    assert checks["held_out:leaky:train"]["figures"]["examples"] > 0


@pytest.mark.usefixtures("small_data")
def test_a_held_out_item_that_a_step_on_single_examples_adds(
    leaky, sequences, small_data_dir, run_audit
):
    vocabulary = tasks.features(CatalogSource(NAME))["targets"].vocabulary
    ids = [[*vocabulary.encode(f"I{items[-1] + 1}"), 1] for items in sequences.values()]
    users, ids = tf.constant(list(sequences)), tf.ragged.constant(ids, tf.int32)

    def swap(example):
        return {**example, "targets": ids[tf.argmax(tf.cast(users == example["user"], tf.int32))]}

    arguments = arguments_of("retrieval")
    after = seqio.map_over_dataset(swap)
    leaky({**arguments, "preprocessors": [*arguments["preprocessors"], after]})
    offender = caught(run_audit, small_data_dir, "held_out:leaky:train")
    assert offender["value"] == f"I{sequences[offender['user']][-1] + 1}"


def test_one_example_is_enough(leaky, sequences, small_data_dir, run_audit):
    """Only one user leaks, in only one window."""
    item = int(sequences["U016"][-1])

    def swap(batch):
        is_it = (batch["user"] == "U016") & (batch["window"] == 0)
        return {"target": tf.where(is_it, item, batch["target"])}

    arguments = arguments_of("retrieval")
    leaky({**arguments, "preprocessors": [mapped(swap), *arguments["preprocessors"]]})
    offender = caught(run_audit, small_data_dir, "held_out:leaky:train")
    assert (offender["user"], offender["value"]) == ("U016", f"I{item + 1}")


def test_a_test_item_in_validation(leaky, sequences, small_data_dir, run_audit):
    held_out = lookup(sequences, -1)

    def swap(batch):
        item = held_out(batch["user"])[:, tf.newaxis]
        return {"history": tf.concat([batch["history"][:, 1:], item], axis=1)}

    arguments = arguments_of("retrieval")
    leaky({**arguments, "preprocessors": [mapped(swap), *arguments["preprocessors"]]})
    offender = caught(run_audit, small_data_dir, "held_out:leaky:validation")
    assert offender["split"] == "validation"
    assert offender["value"] == f"I{sequences[offender['user']][-1] + 1}"


def test_item_embedding_that_shows_a_pair(leaky, small_data_dir, run_audit, small_data):
    source = ItemSource(NAME, templates.ITEM_ATTRIBUTES)
    also_bought = mapped(lambda batch: {"other": (batch["item"] + 1) % 36})
    template = Template(templates.ITEM_EMBEDDING.inputs, (Items("other", "{short_id}"),))
    leaky(
        {
            "source": source,
            "preprocessors": [also_bought, Prompt(template, source), unbatch],
            "output_features": tasks.features(source),
            "shuffle_buffer_size": None,
        }
    )
    offender = caught(run_audit, small_data_dir, "held_out:leaky:train")
    assert offender["user"] is None
    assert "names no user" in offender["problem"]


@pytest.mark.parametrize("kind", ["retrieval", "ranking", "bpr", "mim"])
def test_the_answer_in_its_own_input(kind, leaky, small_data_dir, run_audit):
    arguments = arguments_of(kind)
    *preprocessors, prompt, _ = arguments["preprocessors"]

    def show_answer(batch):
        history = batch["history"]
        if kind != "mim":
            return {"history": tf.concat([history[:, 1:], batch["target"][:, tf.newaxis]], axis=1)}
        answers = tf.ragged.boolean_mask(history, batch["masked"])
        first = tf.gather(answers.values, rows_of(history, answers.row_starts()))
        return {
            "history": history.with_values(tf.where(batch["masked"].values, history.values, first))
        }

    leaky({**arguments, "preprocessors": [*preprocessors, mapped(show_answer), prompt, unbatch]})
    offender = caught(run_audit, small_data_dir, "own_target")
    assert offender["user"].startswith("U")
    assert "the answer is in the input of leaky" in offender["problem"]


@pytest.mark.parametrize(("kind", "offers"), [("ranking", "candidates"), ("bpr", "pair")])
def test_a_negative_of_the_users_own(kind, offers, leaky, sequences, small_data_dir, run_audit):
    first = lookup(sequences, 0)

    def swap(batch):
        """Replaces the first negative by the user's first item."""
        offered, target = batch[offers], batch["target"][:, tf.newaxis]
        negative = tf.argmax(tf.cast(offered != target, tf.int32), axis=1, output_type=tf.int32)
        is_it = tf.range(offered.shape[1]) == negative[:, tf.newaxis]
        return {offers: tf.where(is_it, first(batch["user"])[:, tf.newaxis], offered)}

    arguments = arguments_of(kind)
    *preprocessors, prompt, _ = arguments["preprocessors"]
    leaky({**arguments, "preprocessors": [*preprocessors, mapped(swap), prompt, unbatch]})
    offender = caught(run_audit, small_data_dir, "drawn_negatives")
    assert f"I{sequences[offender['user']][0] + 1}" in offender["value"]


def test_negatives_that_avoid_held_out_items(leaky, sequences, small_data_dir, run_audit):
    """No token reveals it; held-out items are just never drawn."""
    users = tf.constant(list(sequences))
    items = [items.tolist() for items in sequences.values()]
    whole = tf.ragged.constant(items, tf.int32, row_splits_dtype=tf.int64)

    def exclude(batch):
        is_it = users == batch["user"][:, tf.newaxis]
        return {"exclude": tf.gather(whole, tf.argmax(tf.cast(is_it, tf.int32), axis=1))}

    arguments = arguments_of("ranking")
    leaky({**arguments, "preprocessors": [mapped(exclude), *arguments["preprocessors"]]})
    offender = caught(run_audit, small_data_dir, "held_out_negatives")
    assert offender["value"] == "0"


def test_negatives_made_of_held_out_records(leaky, small_data_dir, run_audit):
    arguments = arguments_of("ranking")
    source = arguments["source"]

    def read_test(dataset):
        count = source.records("test").reduce(0, lambda n, record: n + tf.size(record["items"]))
        return dataset.map(lambda batch: {**batch, "window": batch["window"] + count})

    leaky({**arguments, "preprocessors": [read_test, *arguments["preprocessors"]]})
    offender = caught(run_audit, small_data_dir, "withheld")
    assert offender["user"].startswith("U")


def test_our_tasks_pass(small_data_dir, run_audit):
    code, checks = run_audit(small_data_dir)
    assert code == 0
    kinds = (*KINDS, "ie")
    assert {f"held_out:{NAME}_{kind}:train" for kind in kinds} <= set(checks)
    # Tasks that sample run with both seeds.
    windows = checks[f"held_out:{NAME}_retrieval:train"]["figures"]["examples"]
    for kind in ("mim", "mlm", "bpr"):
        figures = checks[f"held_out:{NAME}_{kind}:train"]["figures"]
        assert figures["examples"] == 2 * windows
    every = SequenceSource(NAME, targets="every").num_examples()
    drawn = {"bpr": windows, "ranking": windows, "ids_bpr": every, "ids_ranking": every}
    expected = {f"{NAME}_{kind}": count for kind, count in drawn.items()}
    assert checks["withheld"]["figures"] == expected


@pytest.mark.parametrize("published", [False, True])
def test_the_ids_of_the_tokens_are_those_of_the_text(small_data, published, request):
    """The reader finds every id in the decoded text, with the dataset's vocabulary and T5's."""
    if published:
        import gin

        request.getfixturevalue("clean_gin")
        path = request.getfixturevalue("shared") / "vocab" / "t5.spiece.model"
        gin.bind_parameter("vocabulary.sentencepiece_file.path", str(path))
    task = seqio.TaskRegistry.get(f"{NAME}_ranking")
    records = read_records(CatalogSource(NAME))
    reader = BatchReader(records, task, "train", 0)
    vocabulary = task.output_features["inputs"].vocabulary
    batches = map(reader.read, examples.arrays(task, "train", 0))
    with vocabulary.opened():
        for batch in batches:
            sides = ((batch.inputs, batch.in_inputs), (batch.targets, batch.in_targets))
            for example, (side, ids) in itertools.product(range(len(batch)), sides):
                text = vocabulary.decode(side[example].tolist())
                written = re.findall(r"\bI(\d+)", text)
                assert [str(r + 1) for r in ids.row[ids.example == example]] == written


def test_corrupted_tokens_are_reassembled(small_data):
    """The text before corruption, from inputs and targets."""
    task = seqio.TaskRegistry.get(f"{NAME}_mlm")
    reader = BatchReader(read_records(CatalogSource(NAME)), task, "train", 0)
    vocabulary = task.output_features["inputs"].vocabulary
    (arrays,) = examples.arrays(task, "train", 0)
    batch = reader.read(arrays)
    whole = reader._ids.reassemble(batch.inputs, batch.targets)
    with vocabulary.opened():
        texts = [vocabulary.decode(whole[example].tolist()) for example in range(len(batch))]
    for text in texts:
        assert re.fullmatch(r"(Item ID: I\d+, Title: Gift card of store [^;]*; ?)+", text)
