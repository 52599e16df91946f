"""A folder for transformers works without us: its program gives our items in our order."""

import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest
import seqio

from recllm_tasks import checksums, cli
from recllm_tasks.engine import optimizer, training
from recllm_tasks.models.formats import conversion
from recllm_tasks.recommender import Recommender

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")

# Run in a process of its own, with the folder of the program in front.
ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from recommend import Recommender
recommender = Recommender()
found = [recommender.recommend(names, 10) for names in json.loads(sys.argv[2])]
assert not [name for name in sys.modules if name.startswith(("recllm_tasks", "seqio", "jax"))]
print(json.dumps([[(score, item["short_id"]) for score, item in ranked] for ranked in found]))
"""
HISTORIES = [["I1"], ["I7", "I3", "I30"], [f"I{n}" for n in range(1, 31)]]


@pytest.fixture(scope="module", params=["gift_cards_ut", "gift_cards_ids_sequence"])
def exported(request, run_dir, small_data_dir, network, tmp_path_factory):
    """(a run's folder, what the command made of it): the encoder, or the decoder, reads."""
    folder = tmp_path_factory.mktemp("export")
    model_dir = run_dir
    seqio.set_tfds_data_dir_override(str(small_data_dir))
    if request.param != "gift_cards_ut":
        model_dir = str(folder / "run")
        training.train(
            mixture=request.param,
            model_dir=model_dir,
            model_name="very_small",
            lengths={"inputs": 16, "targets": 64},
            network=network,
            optimizer=optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10)),
            steps=3,
            batch_size=4,
            eval_period=3,
        )
    arguments = ["convert", "--from", "recllm", "--to", "hf", model_dir, str(folder / "hf")]
    assert cli.main([*arguments, "--data_dir", str(small_data_dir)]) == 0
    seqio.set_tfds_data_dir_override(None)
    return model_dir, folder / "hf"


def _run(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_program_recommends_our_items_in_our_order(exported, small_data_dir):
    model_dir, folder = exported
    ours = Recommender.from_run(model_dir, data_dir=str(small_data_dir)).recommend(HISTORIES, k=10)
    theirs = json.loads(_run("-c", ALONE, str(folder), json.dumps(HISTORIES)))
    # The last history leaves six items.
    assert [len(ranked) for ranked in theirs] == [10, 10, 6]
    for mine, other in zip(ours, theirs, strict=True):
        assert [item.log_prob for item in mine] == pytest.approx([s for s, _ in other], abs=1e-4)
        log_prob_of = {item.short_id: item.log_prob for item in mine}
        # Equal order, but for items that differ by less than rounding.
        for item, (_, short_id) in zip(mine, other, strict=True):
            assert log_prob_of[short_id] == pytest.approx(item.log_prob, abs=1e-4)


def test_the_folder_describes_itself(exported):
    _, folder = exported
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    for words in ("A recommender for gift_cards", "60 users, 36 items", "python recommend.py"):
        assert words in card
    assert "License: none is chosen here" in card
    lines = (folder / "catalog.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    assert len(items) == 36
    assert {"short_id", "item", "title", "text", "tokens"} == set(items[0])
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}


def test_the_card_can_be_edited(exported):
    _, folder = exported
    names = checksums.read(folder)
    assert names is not None
    assert "README.md" not in names
    assert {"recommend.py", "tokenizer.json", "model.safetensors"} <= set(names)


def test_without_the_dataset_there_is_no_catalog(run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("recllm_tasks.prompts.source.data_dir", lambda: str(tmp_path / "none"))
    arguments = ["convert", "--from", "recllm", "--to", "hf", run_dir]
    assert cli.main([*arguments, str(tmp_path / "hf")]) == 0
    assert "without catalog and recommend.py" in " ".join(capsys.readouterr().err.split())
    made = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {"tokenizer.json", "README.md"} <= made
    assert not made & {"catalog.jsonl", "recommend.py", "recommender.json"}
    missing = str(tmp_path / "none")
    assert cli.main([*arguments, str(tmp_path / "other"), "--data_dir", missing]) == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("format", conversion.FORMATS)
def test_files_have_the_permissions_that_the_umask_leaves(format, run_dir, tmp_path):
    before = os.umask(0o027)
    try:
        conversion.convert(conversion.open_any(run_dir), format, tmp_path / "made")
    finally:
        os.umask(before)
    for path in (tmp_path / "made").rglob("*"):
        expected = 0o750 if path.is_dir() else 0o640
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_what_we_write_can_be_read_by_others(run_dir, small_data_dir, exported):
    mask = os.umask(0)
    os.umask(mask)
    for root in (run_dir, small_data_dir, exported[1]):
        for path in pathlib.Path(root).rglob("*"):
            lacking = (0o777 if path.is_dir() else 0o666) & ~mask & ~path.stat().st_mode
            assert not lacking, path
