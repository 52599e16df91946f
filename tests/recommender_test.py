"""Recommender: the retrieval task's own prompts and beams, for any history."""

import json
import math
import pathlib
import shutil
import subprocess
import sys

import gin
import numpy as np
import pytest
import seqio

from recllm_tasks import cli, mixtures, tasks
from recllm_tasks import recommender as recommender_lib
from recllm_tasks.data.prepare import prepare
from recllm_tasks.engine import evaluation, inference, optimizer, training
from recllm_tasks.errors import UserError
from recllm_tasks.files import read_json, write_json
from recllm_tasks.models import beam_search
from recllm_tasks.prompts import vocabulary
from recllm_tasks.prompts.source import CatalogSource, SequenceSource, data_dir
from recllm_tasks.prompts.vocabulary_training import ensure_vocabulary
from recllm_tasks.prompts.windows import WINDOW
from recllm_tasks.recommender import Recommender
from recllm_tasks.runs.decoding import Decoding

LENGTHS = {"inputs": 512, "targets": 64}

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


# Histories are then shown in full by their last items.
KEEPING = Decoding(seen="keep")


@pytest.fixture(scope="module")
def recommender(run_dir, small_data_dir):
    return Recommender.from_run(run_dir, KEEPING, data_dir=str(small_data_dir))


def _examples(lengths):
    task = tasks.get("gift_cards_retrieval")
    dataset = task.get_dataset(lengths, split="test", shuffle=False)
    return task, list(dataset.as_numpy_iterator())


@pytest.mark.parametrize("inputs", [512, 90])
def test_prompts_are_those_of_the_task(inputs):
    task, examples = _examples({**LENGTHS, "inputs": inputs})
    write = recommender_lib._prompt_function(task, {**LENGTHS, "inputs": inputs}, WINDOW)
    whole = SequenceSource("gift_cards").get_dataset("test", shuffle=False)
    histories = [rows for batch in whole for rows in batch["history"].to_list()]
    alone = [write([history])[0] for history in histories]
    for one, other, example in zip(alone, write(histories), examples, strict=True):
        np.testing.assert_array_equal(one["inputs"], example["inputs"])
        np.testing.assert_array_equal(other["inputs"], example["inputs"])
    assert max(len(example["inputs"]) for example in examples) <= inputs


def test_beams_are_those_of_infer(recommender, run_dir, tmp_path):
    inference.infer(model_dir=run_dir, output=str(tmp_path / "lines"), decoding=KEEPING)
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    histories = [[item["short_id"] for item in line["history"]] for line in lines]
    found = recommender.recommend(histories, k=20)
    assert len(found) == len(lines) == 60
    for line, ranked in zip(lines, found):
        shown = [{**item._asdict(), "log_prob": round(item.log_prob, 6)} for item in ranked]
        known = line["ranked"][0].keys()
        assert [{k: item[k] for k in known} for item in shown] == line["ranked"]
        for item in ranked:
            assert item.probability == pytest.approx(math.exp(item.log_prob))


def test_the_last_items_of_a_long_history_count(recommender):
    catalog = recommender.catalog
    (long,) = recommender.recommend([catalog.short_id[:25]])
    (last,) = recommender.recommend([catalog.short_id[5:25]])
    (other,) = recommender.recommend([catalog.short_id[4:24]])
    assert len(long) == 10
    assert long == last != other


def test_items_may_be_called_in_every_way(recommender):
    catalog = recommender.catalog
    names = [catalog.short_id[3], catalog.item[8], catalog.title[2], f'"{catalog.title[5][:23]}"']
    rows = [3, 8, 2, 5]
    assert recommender.recommend([names], k=3) == recommender.recommend_rows([rows], k=3)


def test_one_history_is_answered_as_among_others(recommender):
    histories = [recommender.catalog.short_id[i : i + 3 + i] for i in range(5)]
    together = recommender.recommend(histories, k=5)
    for history, ranked in zip(histories, together):
        (alone,) = recommender.recommend([history], k=5)
        for one, other in zip(alone, ranked):
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)


def test_it_compiles_once_for_a_bucket_and_a_batch(recommender):
    ids = recommender.catalog.short_id
    recommender.recommend([ids[:3]])
    recommender.recommend([ids[:3]] * 2)
    before = beam_search._search._cache_size()
    recommender.recommend([ids[4:7]], k=2)
    recommender.recommend([ids[i : i + 3] for i in range(9)], k=20)
    assert beam_search._search._cache_size() == before
    assert recommender.recommend([]) == []


def test_a_beam_as_wide_as_the_catalog_returns_all_of_it(run_dir):
    wide = Recommender.from_run(run_dir, Decoding(num_beams=50, seen="keep"))
    (ranked,) = wide.recommend([["I1"]], k=50)
    assert sorted(item.short_id for item in ranked) == sorted(wide.catalog.short_id)
    assert sum(item.probability for item in ranked) <= 1 + 1e-5


@pytest.mark.parametrize(
    ("histories", "k", "message"),
    [
        (17, 10, "got int 17, expected a list of lists"),
        (None, 10, "got NoneType None, expected a list of lists"),
        ([None], 10, "'history 1': got NoneType None, expected a list of items"),
        ([["I1"], 17], 10, "'history 2': got int 17, expected a list of items"),
        ([["I1", 17]], 10, "Item 2 of 'history 1': got int 17, expected text"),
        ([["'store 3'"]], 10, r"'history 1, item 1': got 7 items, expected one: I"),
        (["I1"], 10, "'history 1': got the text 'I1'"),
        ("I1", 10, "got the text 'I1'"),
        ([["I1"]], 21, "got 21, expected 1 to 20; raise Decoding.num_beams"),
        ([["I1"]], 0, "got 0, expected 1 to 20"),
    ],
)
def test_wrong_questions_are_refused(recommender, histories, k, message):
    with pytest.raises(UserError, match=message):
        recommender.recommend(histories, k=k)


def test_unknown_items_and_repeats_are_left_out(recommender):
    known = [["I1", "I2"], ["I3"]]
    with pytest.warns(UserWarning, match=r"2 names in 1 of 2 histories fit no item .*'I999'"):
        found = recommender.recommend([["I1", "I999", "I2", "I1", "gone"], ["I3"]])
    assert [ranked.skipped for ranked in found] == [("I999", "gone"), ()]
    assert found == recommender.recommend(known)
    with pytest.raises(UserError, match=r"'I999' for 'history 1, item 2': got no such item"):
        recommender.recommend([["I1", "I999"]], on_unknown="error")
    with pytest.raises(UserError, match="on_unknown: got 'warn', expected 'skip' or 'error'"):
        recommender.recommend(known, on_unknown="warn")


def test_a_history_of_nothing_gets_what_is_popular(recommender):
    with pytest.warns(UserWarning, match="fit no item"):
        popular, known, unknown = recommender.recommend([[], ["I2"], ["I999"]], k=4)
    counts = recommender.catalog.train_count
    rows = [recommender.lookup.row(item.short_id) for item in popular]
    assert counts[rows].tolist() == sorted(counts, reverse=True)[:4]
    assert popular == unknown
    assert {item.source for item in popular} == {"popular"}
    assert {item.log_prob for item in popular} == {item.probability for item in popular} == {None}
    assert {item.source for item in known} == {"model"}
    assert known == recommender.recommend([["I2"]], k=4)[0]


def test_lists_of_items_restrict_answers(recommender, run_dir, small_data_dir, tmp_path, capsys):
    """From settings as from masks: in Python, in `recommend` and in `infer`; popular items too."""
    catalog = recommender.catalog
    (tmp_path / "allow").write_text("".join(f"{item} \n\n" for item in catalog.item[2:8]))
    (tmp_path / "deny").write_text(f"{catalog.short_id[5]}\n")
    lists = {"allow": str(tmp_path / "allow"), "deny": str(tmp_path / "deny")}
    allowed_N = np.isin(np.arange(len(catalog)), [2, 3, 4, 6, 7])
    restricted = Recommender.from_run(run_dir, Decoding(seen="keep", **lists))
    histories = [[0, 3], [1], []]
    found = restricted.recommend_rows(histories, 4)
    mask = recommender.mask(allowed_N)
    expected = recommender.recommend_rows(histories[:2], 4, allowed=[mask] * 2)
    names = [[item.item for item in items] for items in found]
    expected = [*expected, recommender.popular(4, allowed_N)]
    assert names == [[item.item for item in items] for items in expected]
    probabilities = [[item.log_prob for item in items] for items in found[:2]]
    np.testing.assert_allclose(
        probabilities, [[item.log_prob for item in items] for items in expected[:2]], atol=1e-5
    )
    assert {item.item for items in found for item in items} <= set(
        np.array(catalog.item)[allowed_N]
    )
    assert restricted.identity() != recommender.identity()
    flags = ["--allow", lists["allow"], "--deny", lists["deny"]]
    command = [
        "recommend",
        run_dir,
        "--data_dir",
        str(small_data_dir),
        "--json",
        "--no-exclude_history",
        *flags,
    ]
    assert (
        cli.main([*command, "-k", "4", "--history", f"{catalog.item[0]}, {catalog.item[3]}"]) == 0
    )
    (line,) = capsys.readouterr().out.splitlines()
    assert [item["item"] for item in json.loads(line)["ranked"]] == [item.item for item in found[0]]
    out = tmp_path / "lines"
    inference.infer(model_dir=run_dir, output=str(out), decoding=Decoding(seen="keep", **lists))
    for line in out.read_text().splitlines():
        ranked = {item["item"] for item in json.loads(line)["ranked"]}
        assert ranked <= set(np.array(catalog.item)[allowed_N])
    with pytest.raises(UserError, match=r"ALLOW: got .*metrics are of the whole catalog"):
        evaluation.evaluate(model_dir=run_dir, decoding=Decoding(seen="keep", **lists))
    (tmp_path / "deny").write_text("nothing\nelse\n")
    with pytest.raises(UserError, match=r"Items to deny in .*2 lines that name no item.*'nothing'"):
        Recommender.from_run(run_dir, Decoding(seen="keep", **lists))


def test_a_custom_dataset_needs_no_registration(tmp_path, network):
    """In a process that did nothing before."""
    lines = ["user,item,time"]
    lines += [f"u{u},p{(u * 3 + t) % 20},{t}" for u in range(20) for t in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    data = str(tmp_path / "data")
    command = ["prepare", "ownstore", "--interactions", str(tmp_path / "log.csv")]
    assert cli.main([*command, "--candidates", "6", "--data_dir", data]) == 0
    mixtures.register_stored(data)
    ensure_vocabulary(CatalogSource("ownstore"))
    training.train(
        mixture="ownstore_ids_sequence_mim",
        model_dir=str(tmp_path / "run"),
        model_name="very_small",
        lengths={"inputs": 16, "targets": 128},
        network=network,
        optimizer=optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10)),
        steps=1,
        batch_size=4,
        eval_examples=4,
        decoding=Decoding(num_beams=2),
    )
    program = (
        "from recllm_tasks import Recommender\n"
        f"recommender = Recommender.from_run({str(tmp_path / 'run')!r}, data_dir={data!r})\n"
        "(found,) = recommender.recommend([['p1', 'p2']], k=3)\n"
        "print(recommender.identity()['mixture'], [item.item for item in found])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = Recommender.from_run(str(tmp_path / "run"), data_dir=data).recommend(
        [["p1", "p2"]], k=3
    )
    expected = f"ownstore_ids_sequence_mim {[item.item for item in found]}"
    assert done.stdout.splitlines()[-1] == expected


def test_a_run_without_its_data_says_what_is_missing(run_dir, tmp_path):
    with pytest.raises(UserError, match=r"dataset 'gift_cards' is not prepared in .*nowhere"):
        Recommender.from_run(run_dir, data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="No run in"):
        Recommender.from_run(str(tmp_path))


def test_another_preparation_of_the_data_is_refused(run_dir, tmp_path):
    other = pathlib.Path(shutil.copytree(run_dir, tmp_path / "run"))
    facts = read_json(other / "run.json")
    write_json(other / "run.json", {**facts, "fingerprint": "0" * 64})
    message = r"'gift_cards' is not the one that the run was trained on: .* expected 000000000000"
    with pytest.raises(UserError, match=message):
        Recommender.from_run(str(other))
    with pytest.raises(UserError, match=message):
        inference.infer(model_dir=str(other), output=str(tmp_path / "lines"))


def _run_on_movies(folder: pathlib.Path, make_movies, network) -> tuple[str, str]:
    """(a run with another dataset, data folder and vocabulary, its data folder)."""
    make_movies(folder / "raw")
    prepare("movielens_100k", folder / "data", folder / "raw")
    source = CatalogSource("movielens_100k", data_dir=str(folder / "data"))
    ensure_vocabulary(source)
    shutil.copyfile(source.vocabulary_file(), folder / "copy.model")
    gin.bind_parameter("vocabulary.sentencepiece_file.path", str(folder / "copy.model"))
    seqio.set_tfds_data_dir_override(str(folder / "data"))
    training.train(
        mixture="movielens_100k_retrieval",
        model_dir=str(folder / "run"),
        model_name="very_small",
        lengths=LENGTHS,
        network=network,
        optimizer=optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10)),
        steps=1,
        batch_size=4,
        eval_examples=4,
        decoding=Decoding(num_beams=2),
    )
    gin.clear_config()
    return str(folder / "run"), str(folder / "data")


def test_a_run_on_ids_is_asked_in_ids(tmp_path, network):
    training.train(
        mixture="gift_cards_ids_reat",
        model_dir=str(tmp_path / "run"),
        model_name="very_small",
        lengths={"inputs": 128, "targets": 32},
        network=network,
        optimizer=optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10)),
        steps=1,
        batch_size=4,
        eval_examples=4,
        decoding=Decoding(num_beams=2),
    )
    inference.infer(
        model_dir=str(tmp_path / "run"),
        output=str(tmp_path / "lines"),
        num_examples=3,
        decoding=KEEPING,
    )
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    recommender = Recommender.from_run(str(tmp_path / "run"), KEEPING)
    histories = [[item["short_id"] for item in line["history"]] for line in lines]
    rows = [recommender.lookup.rows(history) for history in histories]
    for prompt, history in zip(recommender._prompts(rows), histories):
        vocabulary = tasks.get("gift_cards_ids_retrieval").output_features["inputs"].vocabulary
        assert vocabulary.decode(prompt["inputs"].tolist()) == " ".join(history)
    for line, ranked in zip(lines, recommender.recommend(histories, k=20), strict=True):
        found = [item["short_id"] for item in line["ranked"]]
        assert [item.short_id for item in ranked] == found


def test_runs_work_side_by_side(run_dir, small_data_dir, tmp_path, make_movies, network):
    other_run, other_data = _run_on_movies(tmp_path, make_movies, network)
    seqio.set_tfds_data_dir_override(str(tmp_path / "nowhere"))
    runs = ((run_dir, str(small_data_dir)), (other_run, other_data))
    before = gin.config_str()
    alone = []
    for run, data in runs:
        only = Recommender.from_run(run, data_dir=data)
        alone.append(only.recommend([only.catalog.short_id[:4]], k=20))
    assert alone[0] != alone[1]

    first, second = (Recommender.from_run(run, data_dir=data) for run, data in runs)
    for turn in (0, 1, 0, 1, 0):
        recommender = (first, second)[turn]
        assert recommender.recommend([recommender.catalog.short_id[:4]], k=20) == alone[turn]
    assert gin.config_str() == before
    assert vocabulary.sentencepiece_file() is None
    assert data_dir() == str(tmp_path / "nowhere")


def test_gins_vocabulary_is_not_the_recommenders(run_dir, small_data_dir, recommender, tmp_path):
    (tmp_path / "other.model").write_bytes(b"another")
    gin.bind_parameter("vocabulary.sentencepiece_file.path", str(tmp_path / "other.model"))
    bound = Recommender.from_run(run_dir, data_dir=str(small_data_dir))
    assert bound.recommend([["I1"]]) == recommender.recommend([["I1"]])
    with pytest.raises(UserError, match=r"got '.*other.model', expected the run's own"):
        inference.infer(model_dir=run_dir, output=str(tmp_path / "lines"), decoding=KEEPING)
