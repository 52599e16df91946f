"""`recllm doctor PATH`: every file of a dataset and of a run is verified, and damage is named."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from recllm_tasks import cli
from recllm_tasks.commands import file_checks
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import DatasetInfo, dataset_dir
from recllm_tasks.errors import UserError
from recllm_tasks.files import read_json, write_json
from recllm_tasks.prompts.vocabulary import DatasetVocabulary
from recllm_tasks.runs import per_user, results, run_folder
from recllm_tasks.runs.decoding import Decoding
from recllm_tasks.runs.results import Results
from recllm_tasks.runs.run_folder import Run

FLIPS = 200
TASK = "gift_cards_retrieval"


@pytest.fixture(scope="module")
def dataset(small_data_dir, tmp_path_factory) -> pathlib.Path:
    """The folder of a prepared dataset with a token table and a trie beside its records."""
    from recllm_tasks.engine import trie_file
    from recllm_tasks.models.trie import Trie
    from recllm_tasks.prompts import table_file

    copy = shutil.copytree(small_data_dir, tmp_path_factory.mktemp("dataset") / "data")
    folder = dataset_dir(copy, "gift_cards")
    for cache in folder.glob("*.npy"):
        cache.unlink()
    values, splits = np.arange(9, dtype=np.uint16), np.array([0, 4, 9])
    table_file.save(str(folder / "tokens-0123456789abcdef.npy"), values, splits)
    trie_file.save(Trie.build([[5, 6], [7]]), folder / "trie-0123456789abcdef.npy")
    return folder


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory) -> pathlib.Path:
    """The folder of a run, as training and evaluation leave it."""
    import jax.numpy as jnp
    from clu import metric_writers

    from recllm_tasks.engine.checkpoints import BEST, LAST, Checkpoints

    folder = tmp_path_factory.mktemp("runs") / "run"
    facts = DatasetInfo.load(dataset)
    described = Run(
        mixture="gift_cards_ut",
        dataset="gift_cards",
        fingerprint=facts.fingerprint,
        lengths={"inputs": 8, "targets": 4},
        network={"emb_dim": 32},
        seed=0,
        model="tiny",
        records_digest=facts.records_digest,
    )
    settings = "A = 1\n"
    folder.mkdir(parents=True)
    run_folder.open_for_training(
        str(folder), described, str(dataset / "vocabulary.model"), settings
    )
    state = {"params": {"kernel": jnp.arange(6.0).reshape(2, 3), "scale": jnp.ones(4)}}
    saved = Checkpoints(str(folder))
    saved.save(BEST, 7, state["params"])
    saved.save(LAST, 7, state)
    saved.close()
    write_json(folder / BEST / "best.json", {"step": 7, "value": 0.5})
    writer = metric_writers.create_default_writer(str(folder), just_logging=False)
    writer.write_scalars(7, {"loss": 1.0})
    writer.close()
    decoding = Decoding(num_beams=4, seen="leave_out")
    rows = per_user.path_of(folder, results.name_of("test", decoding), TASK)
    batch = per_user.ranked(["a", "b"], [1, 2], [3, 4], [1.0, 2.0], [[1], [3, 2]])
    per_user.write(rows, [batch], {"task": TASK})
    Results(
        dataset="gift_cards",
        fingerprint=facts.fingerprint,
        split_fingerprint=facts.split_fingerprint,
        model="tiny",
        split="test",
        decoding=decoding,
        seen="leave_out",
        metrics={TASK: per_user.metrics(rows)},
        per_user={TASK: str(rows.relative_to(folder))},
    ).save(folder)
    return folder


def _problems(folder):
    return {f.what: f for f in file_checks.check_folder(folder) if f.kind == "problem"}


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _flip(path, generator):
    """Replaces one byte by another value; returns the content before."""
    before = path.read_bytes()
    content = bytearray(before)
    content[generator.integers(len(content))] ^= int(generator.integers(1, 256))
    path.write_bytes(content)
    return before


def test_whole_folders_are_intact_and_nothing_is_unverified(dataset, run):
    for folder in (dataset, run):
        (found,) = file_checks.check_folder(folder)
        assert found.kind == "ok"
        number = len(_files(folder))
        assert found.found.startswith(f"{number} of {number} files verified and intact, ")


def test_every_flipped_byte_is_found_in_its_file(dataset, run):
    generator = np.random.Generator(np.random.Philox(18))
    files = [(folder, path) for folder in (dataset, run) for path in _files(folder)]
    files = [(folder, path) for folder, path in files if path.stat().st_size]
    # Each file at least once, then at random.
    chosen = [*files, *(files[i] for i in generator.integers(len(files), size=FLIPS - len(files)))]
    unnoticed = []
    for folder, path in chosen:
        before = _flip(path, generator)
        if str(path) not in _problems(folder):
            unnoticed.append(path.name)
        path.write_bytes(before)
    assert len(chosen) == FLIPS
    assert unnoticed == []
    assert _problems(dataset) == _problems(run) == {}


OPENED = {
    "recllm.json": lambda path: DatasetInfo.load(path.parent),
    "dataset_info.json": lambda path: DatasetInfo.load(path.parent),
    "features.json": lambda path: DatasetInfo.load(path.parent),
    "catalog.parquet": lambda path: Catalog.load(path.parent),
    "vocabulary.model": lambda path: DatasetVocabulary(str(path)).vocab_size,
    "run.json": lambda path: Run.load(str(path.parent)),
    "results.json": results.read,
    "best.json": read_json,
    f"{TASK}.parquet": per_user.metrics,
}


@pytest.mark.parametrize("name", OPENED)
def test_a_flipped_byte_is_found_on_opening(name, dataset, run):
    generator = np.random.Generator(np.random.Philox(7))
    paths = [*dataset.rglob(name), *run.rglob(name)]
    assert paths
    for path in paths:
        OPENED[name](path)
        for _ in range(8):
            before = _flip(path, generator)
            with pytest.raises(UserError, match=name):
                OPENED[name](path)
            path.write_bytes(before)


def test_the_report_names_file_and_fix_and_the_exit_code_reflects_it(
    dataset, run, tmp_path, capsys
):
    copy = pathlib.Path(shutil.copytree(run, tmp_path / "runs" / "run"))
    assert cli.main(["doctor", str(dataset), str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"{dataset}: " in shown
    assert shown.endswith("no file is damaged\n")
    (copy / "vocabulary.model").unlink()
    (copy / "results" / "test-beam4.json").write_text("{}")
    assert cli.main(["doctor", str(tmp_path), "--json"]) == 1
    (missing,) = (f for f in json.loads(capsys.readouterr().out) if f["kind"] == "problem")
    assert missing["what"] == str(copy / "vocabulary.model")
    assert "no such file" in missing["found"]
    assert "restore it from a copy" in missing["advice"]


def test_a_damaged_dataset_is_repaired_by_the_advice(dataset, tmp_path):
    folder = tmp_path / "data" / "rec_sequences" / "gift_cards" / "1.0.0"
    shutil.copytree(dataset, folder)
    (shard,) = folder.glob("*train*")
    shard.write_bytes(shard.read_bytes()[:-1])
    (folder / "tokens-0123456789abcdef.npy").write_bytes(b"x")
    found = _problems(folder)
    again = f"recllm prepare gift_cards --data_dir {tmp_path / 'data'} --overwrite"
    assert again in found[str(shard)].advice
    assert "built again" in found[str(folder / "tokens-0123456789abcdef.npy")].advice


def test_an_older_dataset_opens_and_is_noted(dataset, tmp_path):
    folder = tmp_path / "data" / "rec_sequences" / "gift_cards" / "1.0.0"
    shutil.copytree(dataset, folder)
    (folder / "checksums.json").unlink()
    facts = dataclasses.asdict(DatasetInfo.load(folder))
    del facts["records_digest"]
    (folder / "recllm.json").write_text(json.dumps(facts))
    assert DatasetInfo.load(folder).records_digest == ""
    note, fine = file_checks.check_folder(folder)
    assert (note.kind, fine.kind) == ("note", "ok")
    assert "catalog.parquet" in note.found
    assert "recllm prepare gift_cards" in note.advice
    (shard,) = folder.glob("*train*")
    _flip(shard, np.random.Generator(np.random.Philox(1)))
    assert list(_problems(folder)) == [str(shard)]


def test_a_folder_without_data_is_refused(tmp_path):
    for path, message in ((tmp_path, "no prepared dataset"), (tmp_path / "x", "no such folder")):
        with pytest.raises(UserError, match=message):
            list(file_checks.check([str(path)]))
