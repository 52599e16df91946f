"""Every training example of Toys and Beauty has the tokens of its whole text, and SeqIO's draws."""

import functools
import itertools

import gin
import numpy as np
import pytest
import seqio
from recllm_tasks.prompts.batch_steps import seeds_of
from recllm_tasks.prompts.ragged import Ragged

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.prompts import draws, masking, stream, token_table

LENGTHS = {"inputs": 1024, "targets": 128}
KINDS = ("retrieval", "ranking", "mim", "mlm", "bpr", "ie", "p5_retrieval", "p5_ranking")
BATCH = 2048

# Different words with two segmentations of the same probability, of all examples of a task. A word
# such as 'I1926,' of a popular item comes in many of them.
MOST_EQUALLY_GOOD = 20

pytestmark = [pytest.mark.slow, pytest.mark.shared]


@pytest.fixture(scope="module", params=[("toys", "toys_and_games"), ("beauty", "beauty")])
def dataset(request, shared, tmp_path_factory):
    """A published dataset with T5's vocabulary in force; its name."""
    from recllm_tasks.data.prepare import prepare

    name, folder = request.param
    data_dir = tmp_path_factory.mktemp(name)
    prepare(name, data_dir, shared / "data" / folder)
    seqio.set_tfds_data_dir_override(str(data_dir))
    gin.clear_config()
    gin.bind_parameter(
        "vocabulary.sentencepiece_file.path", str(shared / "vocab" / "t5.spiece.model")
    )
    yield name
    gin.clear_config()
    seqio.set_tfds_data_dir_override(None)


def _uncorrupted(task):
    """Batches with the tokens of every example before any span is corrupted."""
    table, seed = task.source.training_table(), 0
    for start in range(0, len(table), BATCH):
        batch = table.batch(np.arange(start, min(start + BATCH, len(table))))
        seed = 0
        for step in task.preprocessors:
            if step is masking.corrupt_spans or isinstance(step, seqio.CacheDatasetPlaceholder):
                continue
            if hasattr(step, "kept"):
                kept = step.kept(batch)
                batch = {
                    name: value.take(np.flatnonzero(kept))
                    if isinstance(value, Ragged)
                    else value[kept]
                    for name, value in batch.items()
                }
            places = start + np.arange(len(next(iter(batch.values()))))
            num_seeds = seeds_of(step)
            seeds = [draws.map_seeds(seed + 2 * i, places) for i in range(num_seeds)]
            seed += 2 * num_seeds
            batch = step.on_batch(batch, seeds, LENGTHS, task.output_features)
        yield batch


def _texts(side, parts, batch):
    """The text of each example, as `Side.text` writes it."""
    row_text = functools.cache(side.row_text)
    words = []
    for part in parts:
        if isinstance(part, str):
            words.append(itertools.repeat(part))
        else:
            rows = side.batch_rows(part, batch)
            words.append(
                [
                    " ".join(filter(None, (row_text(part, row) for row in rows[i].tolist())))
                    for i in range(len(rows))
                ]
            )
    return [" ".join(filter(None, texts)) for texts in zip(*words)]


def _words(tokens, vocabulary):
    """The pieces of each word; a word begins with a space."""
    words = [[]]
    for piece in map(vocabulary.tokenizer.IdToPiece, tokens):
        if piece.startswith("▁") and words[-1]:
            words.append([])
        words[-1].append(piece)
    return words


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_whole_text(dataset, kind):
    task = seqio.TaskRegistry.get(f"{dataset}_{kind}")
    prompt, vocabulary = tasks.prompt_of(task), task.output_features["inputs"].vocabulary
    writer = prompt.writer(LENGTHS, task.output_features)
    examples, equally_good, different = 0, [], set()
    for batch in _uncorrupted(task):
        for name, side, parts in (
            ("inputs", writer.inputs, prompt.template.inputs),
            ("targets", writer.targets, prompt.template.targets),
        ):
            if not parts:
                continue
            texts = _texts(side, parts, batch)
            whole = vocabulary.tokenizer.EncodeAsIds(texts)
            for row, (text, tokens) in enumerate(zip(texts, whole, strict=True)):
                assembled = batch[name][row].tolist()
                if assembled == [*tokens, vocabulary.eos_id]:
                    continue
                assert token_table._equally_good(assembled[:-1], tokens, vocabulary), text
                equally_good.append(text)
                pairs = zip(_words(assembled[:-1], vocabulary), _words(tokens, vocabulary))
                different |= {"".join(one) for one, other in pairs if one != other}
        examples += len(batch["inputs"])
    print(f"{task.name}: {len(equally_good)} of {examples} with two segmentations of:")  # noqa: T201
    print(" ", *sorted(different))  # noqa: T201
    assert len(different) <= MOST_EQUALLY_GOOD


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_those_that_seqio_makes_one_by_one(dataset, kind):
    task = seqio.TaskRegistry.get(f"{dataset}_{kind}")
    one_by_one = task.get_dataset(
        LENGTHS, split="train", shuffle=True, seed=0, num_epochs=None
    ).as_numpy_iterator()
    examples, seen = stream.Examples(task, LENGTHS, 0), 0
    while seen < len(task.source.training_table()):
        inputs, targets = examples.make(examples.take())
        for row in range(len(inputs)):
            expected = next(one_by_one)
            assert inputs[row].tolist() == expected["inputs"].tolist()
            assert targets[row].tolist() == expected["targets"].tolist()
        seen += len(inputs)
