"""The TFDS builder `rec_sequences`: one record per user, one config per dataset."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import BUILDER, VERSION, DatasetInfo, digest_records
from recllm_tasks.data.options import DISTINCT
from recllm_tasks.data.records import Shard, plan_shards
from recllm_tasks.data.sequences import HELD_OUT
from recllm_tasks.data.specs import SPECS

_DESCRIPTION = """
Users' sequences of interactions, split by leave-one-out or by time, with negatives for ranking. The
record of a split holds that split's interactions and the earlier ones, never a later one.
"""

# Bytes of length and checksums per record, which TFDS does not count.
_TFRECORD_OVERHEAD = 16

_CITATION = """
@inproceedings{cao-etal-2024-aligning,
  title = {Aligning Large Language Models with Recommendation Knowledge},
  author = {Cao, Yuwei and Mehta, Nikhil and Yi, Xinyang and Hulikal Keshavan, Raghunandan and
            Heldt, Lukasz and Hong, Lichan and Chi, Ed and Sathiamoorthy, Maheswaran},
  booktitle = {Findings of the Association for Computational Linguistics: NAACL 2024},
  year = {2024},
}
"""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What the builder writes, already read, checked and ordered.

    `sequences_dir` is the folder that `sequences.order_sequences` filled.
    """

    info: DatasetInfo
    catalog: Catalog
    sequences_dir: Path
    # Files to store beside the records.
    files: tuple[Path, ...] = ()


def builder_config(name: str, title: str) -> tfds.core.BuilderConfig | str:
    """TFDS's config of a dataset: the name of a published one, a new config for a custom one."""
    if name in SPECS:
        return name
    return tfds.core.BuilderConfig(name=name, description=title)


class RecSequences(FileReaderBuilder):
    """Writes a `Prepared` dataset; without one, only reads a stored dataset.

    Features of a record: `user` (string), `items` (int32 [n], rows of the catalog, oldest first),
    `ratings` (float32 [n], NaN where unknown), `negatives` (int32 [candidates - 1],
    rows of the catalog; [0] in train).
    """

    name = BUILDER
    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it from the class)
        tfds.core.BuilderConfig(name=spec.name, description=spec.title) for spec in SPECS.values()
    ]

    # Nothing is downloaded. TFDS's lookup of checksums needs a package that TFDS does not require.
    url_infos = {}  # noqa: RUF012

    def __init__(
        self,
        *,
        prepared: Prepared | None = None,
        write: Callable[[Sequence[Shard]], None] | None = None,
        **kwargs,
    ):
        """Args:
        prepared: what to write.
        write: calls `records.write_shard` on every shard, in any order and anywhere.
        """
        self._prepared, self._write = prepared, write
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

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        """Writes the files that TFDS would write, with the same names, order and content.

        Our choice: TFDS's own loop shuffles and writes record by record, in one process.
        """
        del dl_manager, download_config
        if self._prepared is None or self._write is None:
            raise ValueError("RecSequences: got no data to write; use `recllm prepare`")
        catalog, info = self._prepared.catalog, self._prepared.info
        catalog.save(self.data_dir)
        for file in self._prepared.files:
            shutil.copy(file, self.data_dir)
        templates = {split: self._get_filename_template(split) for split in HELD_OUT}
        plan = plan_shards(
            self._prepared.sequences_dir,
            catalog.train_count,
            info.seed,
            info.candidates - 1,
            info.candidate_sampling == DISTINCT,
            templates,
        )
        self._write([shard for shards in plan.values() for shard in shards])
        info = dataclasses.replace(info, records_digest=digest_records(self.data_dir))
        info.save(self.data_dir)
        self.info.set_splits(
            tfds.core.SplitDict(
                [_split_info(split, plan[split], templates[split]) for split in plan]
            )
        )


def _split_info(
    split: str, shards: list[Shard], template: tfds.core.ShardedFileTemplate
) -> tfds.core.SplitInfo:
    lengths = [shard.stop - shard.start for shard in shards]
    size = sum(Path(shard.path).stat().st_size for shard in shards)
    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=lengths,
        num_bytes=size - _TFRECORD_OVERHEAD * sum(lengths),
        filename_template=template,
    )
