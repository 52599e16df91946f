import json
from pathlib import Path

import numpy as np
import pytest

from recllm_tasks.data.dataset_info import (
    DatasetInfo,
    compute_fingerprint,
    compute_split_fingerprint,
    dataset_dir,
    open_dataset,
)
from recllm_tasks.data.options import Options
from recllm_tasks.data.sources import SourceFile
from recllm_tasks.data.specs import SPECS
from recllm_tasks.data.statistics import Statistics
from recllm_tasks.data.ties import TieCounts
from recllm_tasks.errors import UserError

INFO = DatasetInfo(
    dataset="toys",
    title="Toys & Games",
    noun="Amazon products",
    verb="buy",
    verb_past="purchased",
    has_ratings=False,
    seed=0,
    k_core=5,
    duplicates_dropped=0,
    source_files={"a": "b"},
    fingerprint="f",
    split_fingerprint="s",
    statistics=Statistics.from_lengths(np.array([5, 6]), 7),
    tie_counts=TieCounts("published", 3, 1),
)


@pytest.fixture
def stored(tmp_path):
    directory = dataset_dir(tmp_path, "toys")
    directory.mkdir(parents=True)
    for name in ("catalog.parquet", "dataset_info.json", "features.json"):
        (directory / name).write_text("")
    INFO.save(directory)
    return directory


def test_folder():
    assert dataset_dir("/x", "toys") == Path("/x/rec_sequences/toys/1.0.0")


def test_round_trip(tmp_path, stored):
    assert DatasetInfo.load(stored) == open_dataset(tmp_path, "toys") == INFO


def test_older_facts_without_tie_counts(stored):
    facts = json.loads((stored / "recllm.json").read_text())
    del facts["tie_counts"]
    (stored / "recllm.json").write_text(json.dumps(facts))
    assert DatasetInfo.load(stored).tie_counts is None


def test_older_facts_without_a_split_fingerprint(stored):
    facts = json.loads((stored / "recllm.json").read_text())
    del facts["split_fingerprint"]
    (stored / "recllm.json").write_text(json.dumps(facts))
    assert DatasetInfo.load(stored).split_fingerprint == "f"


def test_not_prepared(tmp_path):
    message = rf"'toys' is not prepared in {tmp_path}.*recllm prepare toys --data_dir {tmp_path}"
    with pytest.raises(UserError, match=message + " --raw_dir"):
        open_dataset(tmp_path, "toys")


@pytest.mark.parametrize("name", ["recllm.json", "catalog.parquet", "dataset_info.json"])
def test_an_incomplete_dataset(stored, name):
    (stored / name).unlink()
    with pytest.raises(UserError, match=rf"is incomplete.*without {name}.*--overwrite"):
        DatasetInfo.load(stored)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"statistics": {}}'])
def test_damaged_facts(stored, content):
    (stored / "recllm.json").write_text(content)
    with pytest.raises(UserError, match=r"facts of dataset 'toys'.*--overwrite"):
        DatasetInfo.load(stored)


def test_unknown_fact_is_refused(stored):
    facts = json.loads((stored / "recllm.json").read_text())
    (stored / "recllm.json").write_text(json.dumps({**facts, "x": 1}))
    with pytest.raises(UserError, match="'x'"):
        DatasetInfo.load(stored)


def test_fingerprint_depends_on_content_and_options_only():
    def of(path="a", sha256="s", name="toys", bad_records="error", **options):
        spec, source = SPECS[name], SourceFile(Path(path), sha256, 1)
        return compute_fingerprint(spec, [source], Options(**options), bad_records)

    assert of() == of(path="b")
    others = [of(sha256="t"), of(name="beauty"), of(bad_records="quarantine")]
    others += [of(k_core=6), of(seed=1), of(window=9), of(candidates=9), of(ties="shuffled")]
    others += [of(like_threshold=2.0)]
    others += [of(candidate_sampling="distinct")]
    assert len({of(), *others}) == 11


def test_fingerprints_of_the_default_options_never_change():
    """Stored datasets and results carry them: a new option leaves them as they are by default."""
    spec, source = SPECS["toys"], SourceFile(Path("a"), "s", 1)
    assert compute_fingerprint(spec, [source], Options(), "error") == (
        "b291ea00b6639b0e9da270e0516f5349c7e96f6e0ea0e8e5fab9f7c5eb53dd22"
    )


def test_split_fingerprint_depends_on_all_but_ids():
    spec, source = SPECS["toys"], SourceFile(Path("a"), "s", 1)

    def of(**options):
        return compute_split_fingerprint(spec, [source], Options(**options), "error")

    assert of() == of(ids="atomic") == of(ids="semantic")
    assert of() == compute_fingerprint(spec, [source], Options(), "error"), "as older results have"
    assert len({of(), of(seed=1), of(ties="shuffled"), of(k_core=6)}) == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "b291ea00b6639b0e9da270e0516f5349c7e96f6e0ea0e8e5fab9f7c5eb53dd22"),
        ({"ids": "atomic"}, "96918cde62dc8cfe443baa8abb81d6a8e0916ec3bc1d2ed518219b24f823264f"),
        (
            {"ties": "shuffled", "k_core": 0},
            "9d5924b6e56b282b57b3fe137ac1cf0e8207d91590f508673567e2a8709bc5d4",
        ),
    ],
)
def test_fingerprints_are_pinned(options, expected):
    """Results that were measured before an option existed stay comparable with later ones."""
    source = SourceFile(Path("a"), "s", 1)
    assert compute_fingerprint(SPECS["toys"], [source], Options(**options), "error") == expected


def test_later_options_change_the_fingerprint_only_where_they_are_not_the_default():
    source = SourceFile(Path("a"), "s", 1)

    def of(**options):
        return compute_fingerprint(SPECS["toys"], [source], Options(**options), "error")

    assert of(repeats="first") == of()
    assert of(repeats="keep") != of()
