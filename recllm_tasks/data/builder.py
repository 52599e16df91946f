"""The TFDS builder `rec_sequences`: one record a user, one config a dataset."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import BUILDER, VERSION, DatasetInfo
from recllm_tasks.data.negatives import SPLITS as SPLITS_WITH_NEGATIVES
from recllm_tasks.data.negatives import draw_negatives
from recllm_tasks.data.sequences import HELD_OUT, Sequences
from recllm_tasks.data.specs import SPECS

_DESCRIPTION = """
Users' sequences of interactions, split by leave-one-out, with negatives for ranking. The record of
a split holds that split's interactions and the earlier ones, never a later one.
"""

_CITATION = """
@inproceedings{cao-etal-2024-aligning,
  title = {Aligning Large Language Models with Recommendation Knowledge},
  author = {Cao, Yuwei and Mehta, Nikhil and Yi, Xinyang and Keshavan, Raghunandan Hulikal and
            Heldt, Lukasz and Hong, Lichan and Chi, Ed and Sathiamoorthy, Maheswaran},
  booktitle = {Findings of the Association for Computational Linguistics: NAACL 2024},
  year = {2024},
}
"""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """All that the builder writes: read, checked and ordered elsewhere."""

    info: DatasetInfo
    catalog: Catalog
    sequences: Sequences
    # Files to keep beside the records.
    files: tuple[Path, ...] = ()


def builder_config(name: str, title: str) -> tfds.core.BuilderConfig | str:
    """TFDS's configuration of a dataset: of a published one its name, of one's own a new one."""
    if name in SPECS:
        return name
    return tfds.core.BuilderConfig(name=name, description=title)


class RecSequences(tfds.core.GeneratorBasedBuilder):
    """Writes a `Prepared` dataset; without one, only reads what was written before.

    Features of a record: `user` (string), `items` (int32 [n], rows of the catalog, oldest first),
    `ratings` (float32 [n], NaN where unknown), `negatives` (int32 [candidates - 1],
    rows of the catalog; [0] in train).
    """

    name = BUILDER
    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it from the class)
        tfds.core.BuilderConfig(name=spec.name, description=spec.title) for spec in SPECS.values()
    ]

    # Nothing is downloaded; TFDS's own lookup of checksums wants a package it does not require.
    url_infos = {}  # noqa: RUF012

    def __init__(self, *, prepared: Prepared | None = None, **kwargs):
        self._prepared = prepared
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            citation=_CITATION,
            features=tfds.features.FeaturesDict(
                {
                    "user": tfds.features.Text(),
                    "items": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                    "ratings": tfds.features.Tensor(shape=(None,), dtype=np.float32),
                    "negatives": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                }
            ),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager
        if self._prepared is None:
            raise ValueError("RecSequences downloads nothing; `recllm prepare` writes the dataset")
        # TFDS renames this folder when everything in it is written, so nothing half-written is
        # ever found under the final name.
        self._prepared.catalog.save(self.data_path)
        self._prepared.info.save(self.data_path)
        for file in self._prepared.files:
            shutil.copy(file, self.data_path)
        return {split: self._generate_examples(split) for split in HELD_OUT}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        sequences = self._prepared.sequences
        if split in SPLITS_WITH_NEGATIVES:
            counts, seed = self._prepared.catalog.train_count, self._prepared.info.seed
            num = self._prepared.info.candidates - 1
            negatives = draw_negatives(sequences, counts, seed, split, num)
        else:
            negatives = np.zeros([len(sequences.users), 0], np.int32)
        for number, user in enumerate(sequences.users):
            held = sequences.of_split(number, split)
            yield (
                user,
                {
                    "user": user,
                    "items": sequences.items[held],
                    "ratings": sequences.ratings[held],
                    "negatives": negatives[number],
                },
            )
