"""Every training example of Toys and Beauty has the tokens of its whole text."""

import gin
import pytest
import seqio

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.prompts import masking, token_table

LENGTHS = {"inputs": 1024, "targets": 128}
KINDS = ("retrieval", "ranking", "mim", "mlm", "bpr", "ie", "p5_retrieval", "p5_ranking")

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
    """Batches of one epoch, with the tokens of every example before any span is corrupted."""
    dataset = task.source.training_batches(shuffle=False)
    with seqio.utils.map_seed_manager(0):
        for step in task.preprocessors[:-1]:
            if step is masking.corrupt_spans:
                continue
            step = seqio.utils.add_kwargs_to_transform(
                step, sequence_length=LENGTHS, output_features=task.output_features
            )
            dataset = step(dataset)
    return dataset.prefetch(2)


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
        sides = zip(("inputs", "targets"), zip(*writer.texts(batch), strict=True))
        for name, texts in sides:
            if not getattr(prompt.template, name):
                continue
            whole = vocabulary.tokenizer.EncodeAsIds(list(texts))
            for text, tokens, assembled in zip(texts, whole, batch[name].to_list(), strict=True):
                if assembled == [*tokens, vocabulary.eos_id]:
                    continue
                assert token_table._equally_good(assembled[:-1], tokens, vocabulary), text
                equally_good.append(text)
                pairs = zip(_words(assembled[:-1], vocabulary), _words(tokens, vocabulary))
                different |= {"".join(one) for one, other in pairs if one != other}
        examples += len(texts)
    assert examples == task.source.num_examples()
    print(f"{task.name}: {len(equally_good)} of {examples} with two segmentations of:")  # noqa: T201
    print(" ", *sorted(different))  # noqa: T201
    assert len(different) <= MOST_EQUALLY_GOOD
