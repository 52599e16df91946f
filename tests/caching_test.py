"""SeqIO's offline caching, which runs on Apache Beam: a cached task gives the same examples."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import seqio

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks.audit import examples
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import dataset_dir
from recllm_tasks.data.prepare import prepare
from recllm_tasks.prompts.vocabulary import FILE_NAME
from recllm_tasks.tasks import RECOMMENDATION_TASKS

NAME = "movielens_100k"
KINDS = (*RECOMMENDATION_TASKS, "mim", "mlm", "bpr", "ie")
LENGTHS = {"inputs": 512, "targets": 64}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, make_movies):
    """A small dataset, with a plain vocabulary: Beam's sentencepiece cannot train ours."""
    folder = tmp_path_factory.mktemp("caching")
    make_movies(folder / "raw")
    prepare(NAME, folder / "data", folder / "raw")
    catalog = Catalog.load(str(dataset_dir(folder / "data", NAME)))
    texts = (f"Item ID: {i}, Title: {t};" for i, t in zip(catalog.short_id, catalog.title))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts,
        model_writer=model,
        vocab_size=500,
        hard_vocab_limit=False,
        model_type="bpe",
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    )
    (dataset_dir(folder / "data", NAME) / FILE_NAME).write_bytes(model.getvalue())
    return folder / "data"


@pytest.fixture
def data(data_dir):
    """`data_dir`, in force for the test."""
    seqio.set_tfds_data_dir_override(str(data_dir))
    yield data_dir
    seqio.set_tfds_data_dir_override(None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_offers_it(kind, data):
    """And nothing but windows is kept: what follows depends on a run's lengths and seeds."""
    task = seqio.TaskRegistry.get(f"{NAME}_{kind}")
    assert task.supports_caching
    kept = task.preprocess_precache(task.source.get_dataset("train", shuffle=False))
    assert kept.element_spec == task.source.get_dataset("train", shuffle=False).element_spec


@pytest.fixture(scope="module")
def cache(tmp_path_factory, data_dir):
    """The folder where SeqIO's own program has cached every task of the small dataset."""
    pytest.importorskip("apache_beam", reason="needs apache-beam: launch/locks/py311-beam.txt")
    folder = tmp_path_factory.mktemp("cache")
    arguments = [
        f"--tasks={NAME}_.*",
        "--module_import=recllm_tasks.mixtures",
        "--min_shards=3",
        f"--output_cache_dir={folder}",
        f"--tfds_data_dir={data_dir}",
    ]
    subprocess.run(
        [sys.executable, "-P", "-m", "seqio.scripts.cache_tasks_main", *arguments],
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    before = seqio.get_global_cache_dirs()
    seqio.add_global_cache_dirs([str(folder)])
    yield folder
    seqio.set_global_cache_dirs(before)


def read(task, split, use_cached):
    """Every example, ordered by what it is of: caching does not keep the order."""
    dataset = task.get_dataset(LENGTHS, split, use_cached=use_cached, shuffle=False, seed=0)

    def identity(example):
        is_window = "window" in example
        return [
            example[name] for name in (("user", "window") if is_window else ("item", "attribute"))
        ]

    return sorted(dataset.as_numpy_iterator(), key=identity)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_examples(kind, cache, data):
    task = seqio.TaskRegistry.get(f"{NAME}_{kind}")
    for split in task.splits:
        cached, fresh = read(task, split, True), read(task, split, False)
        assert len(cached) == len(fresh) > 0
        # What is sampled depends on the place of an example in the dataset.
        names = ("user", "window") if kind in ("mim", "mlm", "bpr") else fresh[0].keys()
        for ours, theirs in zip(cached, fresh):
            for name in names:
                np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_cached_masks_are_new_every_epoch(cache, data):
    task = seqio.TaskRegistry.get("movielens_100k_mim")
    dataset = task.get_dataset(
        LENGTHS, "train", use_cached=True, shuffle=False, seed=0, num_epochs=2
    )
    found = list(dataset.as_numpy_iterator())
    first, second = found[: len(found) // 2], found[len(found) // 2 :]
    assert [e["user"] for e in first] == [e["user"] for e in second]
    assert any(not np.array_equal(a["inputs"], b["inputs"]) for a, b in zip(first, second))


def test_the_audit_reads_the_windows_themselves(cache, data):
    """A cache may be stale or made elsewhere: what is audited does not come from it."""
    task = seqio.TaskRegistry.get("movielens_100k_retrieval")
    assert task.cache_dir
    batches = list(examples.arrays(task, "train", 0))
    assert sum(len(batch["window"]) for batch in batches) == len(read(task, "train", False))
