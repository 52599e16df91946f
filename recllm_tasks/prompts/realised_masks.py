"""How many of the masks that MIM and MLM ask for fit into the targets, counted on the data.

Letters: B examples of a batch.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.prompts import masking, templates
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.prompts.batches import Batch, lengths_of, row_sums
from recllm_tasks.prompts.source import SequenceSource


@dataclasses.dataclass
class Realised:
    """Counts of one task.

    Attributes:
      examples, cut: all examples, and those that lose a mask.
      full, cut_of_full: the same of examples as long as the dataset's window.
      masks, lost: masked items (MIM) or corrupted tokens (MLM) asked for, and those that do not
        fit.
    """

    examples: int = 0
    cut: int = 0
    full: int = 0
    cut_of_full: int = 0
    masks: int = 0
    lost: int = 0

    def add(self, asked_B: np.ndarray, kept_B: np.ndarray, is_full_B: np.ndarray) -> None:
        is_cut_B = kept_B < asked_B
        self.examples += len(asked_B)
        self.cut += int(is_cut_B.sum())
        self.full += int(is_full_B.sum())
        self.cut_of_full += int((is_cut_B & is_full_B).sum())
        self.masks += int(asked_B.sum())
        self.lost += int((asked_B - kept_B).sum())


def realised_masks(
    dataset: str,
    wording: templates.Wording,
    vocabulary: seqio.Vocabulary,
    lengths: Mapping[str, int],
    seed: int,
) -> dict[str, Realised]:
    """`mim`, `mlm` and `ids_mim` over one epoch of the train split.

    Args:
      dataset: a prepared one.
      wording: of its prompts.
      vocabulary: of both sides.
      lengths: of `inputs` and `targets`, in tokens.
      seed: of windows and masks, SeqIO's.
    """
    source = SequenceSource(dataset, splits=["train"], needs_history=True)
    window = source.info().window
    found = {"mim": Realised(), "mlm": Realised(), "ids_mim": Realised()}
    # One seed gives one sample and its masks, of which the targets then lift some.
    without_limit = {"inputs": lengths["inputs"]}
    for kind, template in (
        ("mim", templates.MASKED_ITEM_MODELING.worded(wording)),
        ("ids_mim", templates.IDS_MASKED_ITEM_MODELING),
    ):
        step = masking.mask_items(Prompt(template, source))
        asked, kept = (
            _batches(source, vocabulary, limits, seed, [step])
            for limits in (without_limit, lengths)
        )
        for batch, other in zip(asked, kept, strict=True):
            is_full_B = lengths_of(batch["history"]).numpy() == window
            asked_B, kept_B = (row_sums(of["masked"]).numpy() for of in (batch, other))
            found[kind].add(asked_B, kept_B, is_full_B)
    prompt = Prompt(templates.MASKED_LANGUAGE_MODELING, source)
    for batch in _batches(source, vocabulary, lengths, seed, [prompt], masking.MIN_MLM_ITEMS):
        sizes = lengths_of(batch["inputs"]) - 1
        asked_B = masking.num_noise(sizes, None).numpy()
        kept_B = masking.num_noise(sizes, lengths["targets"]).numpy()
        found["mlm"].add(asked_B, kept_B, lengths_of(batch["history"]).numpy() == window)
    return found


def _batches(
    source: SequenceSource,
    vocabulary: seqio.Vocabulary,
    lengths: Mapping[str, int],
    seed: int,
    steps: list,
    min_items: int | None = None,
) -> Iterator[Batch]:
    """Batches of sampled windows after the steps, as the task's own preprocessors make them."""
    features = {name: seqio.Feature(vocabulary) for name in ("inputs", "targets")}
    batches: tf.data.Dataset = source.get_dataset("train", shuffle=False)
    with seqio.utils.map_seed_manager(seed):
        for step in (masking.sample_items(source, min_items), *steps):
            step = seqio.utils.add_kwargs_to_transform(
                step, sequence_length=lengths, output_features=features
            )
            batches = step(batches)
    return iter(batches)
