import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds

from recllm_tasks.data import builder as builder_lib
from recllm_tasks.data import records
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.prepare import dataset_dir, open_dataset, prepare
from recllm_tasks.errors import UserError

NAME = "gift_cards"


def read_records(builder, split):
    records = tfds.as_numpy(builder.as_dataset(split))
    return {record["user"].decode(): record for record in records}


def tree(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def data_dir(tmp_path, raw_dir):
    prepare(NAME, tmp_path / "data", raw_dir)
    return tmp_path / "data"


def test_records_of_each_split(data_dir, gift_interactions):
    directory = dataset_dir(data_dir, NAME)
    builder, catalog = tfds.builder_from_directory(directory), Catalog.load(directory)
    splits = {split: read_records(builder, split) for split in ("train", "validation", "test")}
    for number in range(8):
        user = f"U{number}"
        own = [r for r in gift_interactions if r["reviewerID"] == user]
        own.sort(key=lambda r: r["unixReviewTime"])
        for split, held_out in (("train", 2), ("validation", 1), ("test", 0)):
            record, expected = splits[split][user], own[: len(own) - held_out]
            assert [catalog.item[row] for row in record["items"]] == [r["asin"] for r in expected]
            assert list(record["ratings"]) == [r["overall"] for r in expected]
            assert record["items"].dtype == np.int32
            assert record["ratings"].dtype == np.float32
            assert record["negatives"].dtype == np.int32
            assert len(record["negatives"]) == (0 if split == "train" else 99)
            # Each user has all items but one, which is the only negative there is.
            assert {catalog.item[row] for row in record["negatives"]} <= {f"A{number}"}


def test_catalog(data_dir):
    catalog = Catalog.load(dataset_dir(data_dir, NAME))
    assert sorted(catalog.item) == [f"A{i}" for i in range(9)]
    assert catalog.title == [f"Card {item[1:]}" for item in catalog.item]
    # 8 users hold out the last two of their 8 items, in time order.
    assert catalog.train_count.sum() == 8 * 6


def test_facts(data_dir, raw_dir):
    info = open_dataset(data_dir, NAME)
    assert (info.has_ratings, info.seed, info.k_core, info.duplicates_dropped) == (True, 0, 5, 0)
    assert (info.noun, info.verb_past) == ("Amazon products", "purchased")
    assert (info.statistics.users, info.statistics.items) == (8, 9)
    assert info.source_files == tree(raw_dir)


def test_without_ratings(tmp_path, raw_dir, write_lines, gift_interactions):
    for record in gift_interactions:
        del record["overall"]
    write_lines(raw_dir / "Gift_Cards_5.json.gz", gift_interactions)
    lines = []
    prepare(NAME, tmp_path / "data", raw_dir, progress=lines.append)
    assert not open_dataset(tmp_path / "data", NAME).has_ratings
    assert any("no ratings" in line for line in lines)
    builder = tfds.builder_from_directory(dataset_dir(tmp_path / "data", NAME))
    records = read_records(builder, "test").values()
    assert all(math.isnan(x) for record in records for x in record["ratings"])


def test_readable_by_name_when_the_class_is_imported(data_dir):
    by_name = tfds.builder(f"rec_sequences/{NAME}:1.0.0", data_dir=data_dir)
    by_class = builder_lib.RecSequences(config=NAME, data_dir=data_dir)
    assert len(read_records(by_name, "validation")) == 8
    assert len(read_records(by_class, "validation")) == 8


def test_readable_by_name_when_the_class_is_not_imported(data_dir):
    program = (
        "import sys, tensorflow_datasets as tfds\n"
        f"b = tfds.builder('rec_sequences/{NAME}:1.0.0', data_dir={str(data_dir)!r})\n"
        "assert not any(m.startswith('recllm_tasks') for m in sys.modules)\n"
        "print(len(list(b.as_dataset('test'))))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "8", result.stderr


def test_two_runs_give_the_same_bytes(tmp_path, raw_dir, data_dir):
    prepare(NAME, tmp_path / "other", raw_dir)
    first, second = (tree(dataset_dir(d, NAME)) for d in (data_dir, tmp_path / "other"))
    assert first == second
    assert {"catalog.parquet", "recllm.json", "rec_sequences-test.tfrecord-00000-of-00001"} < set(
        first
    )


def test_leaves_only_the_dataset_and_prints_nothing(tmp_path, raw_dir, capsys):
    prepare(NAME, tmp_path / "data", raw_dir)
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["rec_sequences"]
    assert os.listdir(tmp_path / "data" / "rec_sequences" / NAME) == ["1.0.0"]
    assert capsys.readouterr().out == ""


def test_preparing_again_does_nothing(data_dir, raw_dir):
    lines, before = [], tree(data_dir)
    times = {p: p.stat().st_mtime_ns for p in data_dir.rglob("*")}
    statistics = prepare(NAME, data_dir, raw_dir, progress=lines.append)
    assert statistics == open_dataset(data_dir, NAME).statistics
    assert any("already prepared" in line for line in lines)
    assert tree(data_dir) == before
    assert {p: p.stat().st_mtime_ns for p in data_dir.rglob("*")}.items() >= {
        p: t for p, t in times.items() if p.is_file()
    }.items()


def test_other_options_need_overwrite(data_dir, raw_dir):
    before = tree(data_dir)
    with pytest.raises(UserError, match=r"with other options.*seed 0.*--overwrite"):
        prepare(NAME, data_dir, raw_dir, seed=1)
    assert tree(data_dir) == before
    prepare(NAME, data_dir, raw_dir, seed=1, overwrite=True)
    assert open_dataset(data_dir, NAME).seed == 1
    assert [p.name for p in data_dir.iterdir()] == ["rec_sequences"]


def test_other_files_need_overwrite(data_dir, raw_dir, write_lines, gift_metadata):
    gift_metadata[0]["title"] = "New"
    write_lines(raw_dir / "meta_Gift_Cards.json.gz", gift_metadata)
    with pytest.raises(UserError, match=r"already exists .* with other options"):
        prepare(NAME, data_dir, raw_dir)
    prepare(NAME, data_dir, raw_dir, overwrite=True)
    assert "New" in Catalog.load(dataset_dir(data_dir, NAME)).title


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_stopped_midway_leaves_nothing(tmp_path, raw_dir, error):
    def stop(shards):
        records.write_shard(shards[0])
        raise error

    with pytest.raises(UserError if error is OSError else error):
        prepare(NAME, tmp_path / "data", raw_dir, write=stop)
    assert not list((tmp_path / "data").iterdir())
    assert not list((tmp_path / "data").rglob("catalog.parquet"))
    with pytest.raises(UserError, match="not prepared"):
        open_dataset(tmp_path / "data", NAME)
    prepare(NAME, tmp_path / "data", raw_dir)


def test_stopped_while_overwriting_keeps_the_old(data_dir, raw_dir):
    def stop(shards):
        raise KeyboardInterrupt

    before = tree(data_dir)
    with pytest.raises(KeyboardInterrupt):
        prepare(NAME, data_dir, raw_dir, seed=1, overwrite=True, write=stop)
    assert tree(data_dir) == before


def run_killed(seconds, *arguments):
    """Runs `prepare(*arguments)` in a process; returns whether it was killed before it ended."""
    program = (
        "import os, signal, sys, threading, time\n"
        "from recllm_tasks.data.prepare import prepare\n"
        "threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        "prepare(*sys.argv[2:], seed=1, overwrite=True)\n"
        "os._exit(0)\n"
    )
    command = [sys.executable, "-c", program, str(seconds), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.returncode in (0, -signal.SIGKILL), result.stderr.decode()
    return result.returncode != 0


@pytest.mark.parametrize("points", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_rerun_after_a_kill_gives_the_same_bytes(tmp_path, data_dir, raw_dir, points):
    old = tree(data_dir)
    start = time.monotonic()
    prepare(NAME, tmp_path / "expected", raw_dir, seed=1)
    whole_run = time.monotonic() - start
    expected = tree(tmp_path / "expected")
    for moment in np.random.default_rng(points).uniform(0, whole_run, points):
        run_killed(moment, NAME, data_dir, raw_dir)
        prepare(NAME, data_dir, raw_dir, seed=1, overwrite=True)
        assert tree(data_dir) == expected
        prepare(NAME, data_dir, raw_dir, overwrite=True)
        assert tree(data_dir) == old


@pytest.mark.parametrize("limit", [1_000, pytest.param(3_000, marks=pytest.mark.slow)])
def test_a_full_disk_keeps_the_old(data_dir, raw_dir, limit):
    """Files may not grow beyond a limit."""
    before = tree(data_dir)
    program = (
        "import resource, sys\n"
        "from recllm_tasks.data.prepare import UserError, prepare\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
        "try:\n"
        "    prepare(*sys.argv[2:], seed=1, overwrite=True)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(limit), NAME, str(data_dir), str(raw_dir)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "free some disk space" in result.stdout, result.stderr
    assert tree(data_dir) == before


def test_second_run_waits_and_finds_it_prepared(tmp_path, raw_dir):
    first_is_writing, second_is_waiting = threading.Event(), threading.Event()
    lines = []

    def write(shards):
        first_is_writing.set()
        assert second_is_waiting.wait(60)
        for shard in shards:
            records.write_shard(shard)

    def say(line):
        lines.append(line)
        if "waiting" in line:
            second_is_waiting.set()

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(prepare, NAME, tmp_path / "data", raw_dir, write=write)
        assert first_is_writing.wait(60)
        second = prepare(NAME, tmp_path / "data", raw_dir, progress=say)
        assert second == first.result()
    assert [line for line in lines if "already prepared" in line]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["rec_sequences"]


def test_the_seconds_of_each_stage_are_reported(tmp_path, raw_dir):
    lines = []
    prepare(NAME, tmp_path / "data", raw_dir, progress=lines.append)
    assert re.fullmatch(
        NAME + r": seconds: check \S+, read \S+, core \S+, order \S+, metadata \S+, records \S+",
        lines[-1],
    )


def test_an_incomplete_dataset_is_refused_and_can_be_replaced(data_dir, raw_dir):
    (dataset_dir(data_dir, NAME) / "recllm.json").unlink()
    with pytest.raises(UserError, match=r"is incomplete.*without recllm\.json"):
        prepare(NAME, data_dir, raw_dir)
    prepare(NAME, data_dir, raw_dir, overwrite=True)
    assert open_dataset(data_dir, NAME).statistics.users == 8


@pytest.mark.parametrize("options", [{"k_core": 2}, {"k_core": 5.0}, {"seed": -1}, {"seed": 2**30}])
def test_bad_options(tmp_path, raw_dir, options):
    (option,) = options
    with pytest.raises(UserError, match=f"{option} for 'gift_cards'"):
        prepare(NAME, tmp_path / "data", raw_dir, **options)


def test_data_dir_is_a_file(tmp_path, raw_dir):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match=r"data_dir for .*File exists"):
        prepare(NAME, tmp_path / "data", raw_dir)
    with pytest.raises(UserError, match=r"data_dir for .*Not a directory"):
        prepare(NAME, tmp_path / "data" / "below", raw_dir)


def test_data_dir_cannot_be_written(tmp_path, raw_dir, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"data_dir for .*Permission denied.*another --data_dir"):
        prepare(NAME, tmp_path / "data", raw_dir)


def test_bad_lines_are_written_beside_the_records(
    tmp_path, raw_dir, write_lines, gift_interactions, gift_metadata
):
    write_lines(raw_dir / "Gift_Cards_5.json.gz", ["{", *gift_interactions, "nonsense"])
    write_lines(raw_dir / "meta_Gift_Cards.json.gz", [*gift_metadata, {"title": "no asin"}])
    with pytest.raises(UserError, match=r"Gift_Cards_5\.json\.gz', line 1: .*--bad_records"):
        prepare(NAME, tmp_path / "data", raw_dir)
    assert not list((tmp_path / "data").rglob("recllm.json"))
    said = []
    prepare(NAME, tmp_path / "data", raw_dir, bad_records="quarantine", progress=said.append)
    assert any("wrote 3 bad lines to bad_records.jsonl" in line for line in said)
    assert open_dataset(tmp_path / "data", NAME).bad_records == 3
    aside = (dataset_dir(tmp_path / "data", NAME) / "bad_records.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in aside] == [1, len(gift_interactions) + 2, 10]
    assert json.loads(aside[1])["text"] == "nonsense"
    prepare(NAME, tmp_path / "data", raw_dir, bad_records="quarantine", progress=said.append)
    assert any("already prepared" in line for line in said)


def test_user_who_has_every_item(tmp_path, raw_dir, write_lines, gift_interactions):
    extra = {"reviewerID": "U3", "asin": "A3", "unixReviewTime": 0, "overall": 1.0}
    write_lines(raw_dir / "Gift_Cards_5.json.gz", [*gift_interactions, extra])
    said = []
    assert prepare(NAME, tmp_path / "data", raw_dir, progress=said.append).users == 7
    assert any("left out 1 users" in line and "'U3'" in line for line in said)


def test_importing_reads_no_file(tmp_path):
    """The facts of the package can be read without TensorFlow."""
    program = (
        "import sys\n"
        "import recllm_tasks.data.specs, recllm_tasks.data.catalog\n"
        "import recllm_tasks.data.dataset_info\n"
        "print(json.dumps([m for m in ('tensorflow', 'jax') if m in sys.modules]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", "import json\n" + program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(result.stdout) == [], result.stderr
