"""Counts of realised masks are those of the tasks themselves."""

import pytest
import seqio

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks.pipeline import examples
from recllm_tasks.prompts.realised_masks import realised_masks
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import Wording
from recllm_tasks.prompts.vocabulary import DatasetVocabulary

NAME, SEED = "gift_cards", 3


def counted(targets, inputs=512):
    vocabulary = DatasetVocabulary(CatalogSource(NAME).vocabulary_file)
    info = CatalogSource(NAME).info()
    wording = Wording(info.noun, info.verb, info.verb_past)
    lengths = {"inputs": inputs, "targets": targets}
    return realised_masks(NAME, wording, vocabulary, lengths, SEED)


def batches(kind, targets, inputs=512):
    task = seqio.TaskRegistry.get(f"{NAME}_{kind}")
    lengths = {"inputs": inputs, "targets": targets}
    dataset = task.source.get_dataset("train", shuffle=False)
    return task, list(examples._apply(task, dataset, lengths, SEED))


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("targets", [20, 40, pytest.param(400, marks=pytest.mark.slow)])
def test_kept_masks_are_those_of_the_tasks(targets):
    found = counted(targets)
    _, masked = batches("mim", targets)
    assert found["mim"].examples == sum(len(batch["user"]) for batch in masked)
    kept = sum(int(batch["masked"].values.numpy().sum()) for batch in masked)
    assert found["mim"].masks - found["mim"].lost == kept
    task, corrupted = batches("mlm", targets)
    first_sentinel = task.output_features["targets"].vocabulary.vocab_size - 100
    hidden = 0
    for batch in corrupted:
        tokens = batch["targets"].values.numpy()
        hidden += int(((tokens != 1) & (tokens < first_sentinel)).sum())
    assert found["mlm"].masks - found["mlm"].lost == hidden


@pytest.mark.usefixtures("small_data")
def test_what_fits_is_not_cut_and_what_does_not_is():
    long, short = counted(400), counted(20)
    for kind in ("mim", "mlm"):
        assert (long[kind].cut, long[kind].lost) == (0, 0)
        assert 0 < short[kind].cut <= short[kind].examples
        assert short[kind].cut <= short[kind].lost < short[kind].masks
        assert short[kind].masks == long[kind].masks
        assert short[kind].cut_of_full <= short[kind].full
