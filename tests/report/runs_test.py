"""Run folders are found, checked, and joined with the baselines inside results.json."""

import dataclasses
import json
import os

import pytest

from recllm_tasks import checksums
from recllm_tasks.data.dataset_info import DatasetInfo, dataset_dir, open_dataset
from recllm_tasks.errors import UserError
from recllm_tasks.report import conditions, run_tables, runs, user_results

INNER = {
    "popularity": {"toys_retrieval": {"hr@10": 0.1}},
    "item-to-item": {"toys_retrieval": {"hr@10": 0.2}},
}


def test_runs_are_found_in_folders_and_alone(make_run, draw_ranks, tmp_path):
    one, two = (make_run(name, ranks=draw_ranks(20, 0.5)) for name in ("b/one", "a/two"))
    alone = tmp_path / "from_a_tpu.json"
    alone.write_text((one / "results.json").read_text())
    found = runs.load([tmp_path / "runs", one, alone])
    assert [run.path for run in found] == [two / "results.json", one / "results.json", alone]
    assert [run.name for run in found] == ["two", "one", "from_a_tpu"]
    assert found[0].per_user_file("toys_retrieval").is_file()
    assert found[2].per_user_file("toys_retrieval") is None, "another run's users are not its own"


def test_baselines_inside_fill_in_where_no_run_is_given(make_run, draw_ranks):
    model = make_run("reat", ranks=draw_ranks(20, 0.5), mixture="toys_reat", baselines=INNER)
    given = make_run("item_to_item", ranks=draw_ranks(20, 0.3))
    other = make_run("fewer", ranks=draw_ranks(10, 0.3), mixture="toys_ut", baselines=INNER)
    found = [(run.model, run.inside) for run in runs.load([model, given])]
    assert found == [("reat", ""), ("item_to_item", ""), ("popularity", "popularity")]
    inside = [run for run in runs.load([model, given, other]) if run.inside]
    assert [(run.model, run.num_examples["toys_retrieval"]) for run in inside] == [
        ("popularity", 20),
        ("popularity", 10),
        ("item-to-item", 10),
    ]


def test_a_baseline_beside_another_prompt_of_the_kind_is_the_same_row(make_run, draw_ranks):
    inner = {"popularity": {"toys_ids_retrieval": {"hr@10": 0.1}}}
    model = make_run("reat", ranks=draw_ranks(20, 0.5), mixture="toys_reat", baselines=INNER)
    of_ids = make_run(
        "ids_reat",
        ranks=draw_ranks(20, 0.5),
        mixture="toys_ids_reat",
        task="toys_ids_retrieval",
        baselines=inner,
    )
    found = runs.load([model, of_ids])
    assert [run.inside for run in found].count("popularity") == 1
    assert {run.tasks["retrieval"] for run in found} == {"toys_retrieval", "toys_ids_retrieval"}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("metrics", {"toys_retrieval": {"hr@10": "0.5"}}, "metrics.toys_retrieval.hr@10"),
        ("metrics", {"toys_retrieval": {"hr@10": 1.5}}, "metrics.toys_retrieval.hr@10"),
        ("metrics", {"toys_retrieval": {"hr@10": None}}, "metrics.toys_retrieval.hr@10"),
        ("metrics", {"toys_retrieval": {"hr@10": float("nan")}}, "NaN"),
        ("metrics", {"toys_retrieval": {"hr@10": True}}, "metrics.toys_retrieval.hr@10"),
        ("metrics", {"toys_retrieval": [1]}, "metrics.toys_retrieval"),
        ("metrics", {"../../x": {"hr@10": 0.5}}, "metrics.../../x"),
        ("metrics", {}, "metrics"),
        ("dataset", None, "dataset"),
        ("dataset", "../toys", "dataset"),
        ("fingerprint", 7, "fingerprint"),
        ("model", ["m"], "model"),
        ("model", "m" * 10_000, "model"),
        ("split", "train", "split"),
        ("split_fingerprint", "../x", "split_fingerprint"),
        ("seen", "kept", "seen"),
        ("seen", ["keep"], "seen"),
        ("baselines_seen", {"popularity": "kept"}, "baselines_seen.popularity"),
        ("by_target", {"toys_retrieval": {"new": {"hr@10": 2}}}, "by_target.toys_retrieval.new"),
        ("ids", "other", "ids"),
        ("ties", "random", "ties"),
        ("num_examples", {"toys_retrieval": 1.5}, "num_examples.toys_retrieval"),
        ("seconds", float("inf"), "Infinity"),
        ("parameters", -1, "parameters"),
        ("decoding", "beam", "decoding"),
        ("decoding", {"constrained": "yes"}, "CONSTRAINED: got 'yes'"),
        ("decoding", {"num_beams": 0}, "NUM_BEAMS: got 0"),
        ("decoding", {"method": "m" * 10_000}, "METHOD: got"),
        ("decoding", {"method": ["beam"]}, "METHOD: got"),
        ("decoding", {"beams": 3}, "'decoding' in"),
        ("constrained", False, "constrained"),
        ("per_user", {"toys_retrieval": "../other/per_user/x.parquet"}, "per_user.toys_retrieval"),
        ("per_user", {"toys_retrieval": 1}, "per_user.toys_retrieval"),
        ("settings", "x", "settings"),
        ("settings", {"curve": [1]}, "settings.curve"),
        ("settings", {"curve": [{"epoch": "1", "loss": 2}]}, "settings.curve[0].epoch"),
        ("baselines", {"x": {"toys_retrieval": {"hr@10": 2}}}, "baselines.x.toys_retrieval.hr@10"),
    ],
)
def test_invalid_values_are_reported(make_run, draw_ranks, change, key, value, told):
    folder = change(make_run("run", ranks=draw_ranks(20, 0.5)), **{key: value})
    with pytest.raises(UserError) as error:
        runs.load([folder])
    assert told in str(error.value)
    assert str(folder / "results.json") in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00", "[" * 100_000, '{"a": 1, "a": 2}'])
def test_files_that_are_no_results(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json"):
        runs.load([tmp_path])


def test_deep_settings_and_strange_characters_are_shown_as_text(make_run, draw_ranks, change):
    folder = make_run("run", ranks=draw_ranks(20, 0.5))
    change(folder, model="A\u202eB\x00\ud800", settings={"a": {"b": [{"c": 1}]}})
    (run,) = runs.load([folder])
    assert run.model == "A�B��"
    table = run_tables.fingerprint_table([run], {})
    assert table.rows[0].cells[-1].text == 'a={"b": [{"c": 1}]}'


def test_run_json_must_tell_of_the_same_dataset(make_run, draw_ranks):
    folder = make_run("run", ranks=draw_ranks(20, 0.5))
    told = {"dataset": "toys", "fingerprint": "cd" * 32}
    (folder / "run.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"'fingerprint' in '.*run\.json'"):
        runs.load([folder])


def test_runs_on_different_records_of_one_dataset_are_refused(make_run, draw_ranks, change):
    one, two, none = (make_run(name, ranks=draw_ranks(20, 0.5)) for name in ("a", "b", "c"))
    change(one, records_digest="12" * 32)
    change(two, records_digest="12" * 32)
    assert len(runs.load([one, two, none])) == 3
    change(two, records_digest="34" * 32)
    with pytest.raises(UserError, match=r"'records_digest' in '.*/b/results\.json': got 343434"):
        runs.load([one, two, none])


def test_nothing_there(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="expected"):
            runs.load([path])


def test_links_are_not_followed(tmp_path, make_run, draw_ranks):
    make_run("run", ranks=draw_ranks(20, 0.5))
    os.symlink(tmp_path, tmp_path / "runs" / "loop")
    assert len(runs.load([tmp_path / "runs"])) == 1


def test_metrics_come_out_of_the_users_results_again(make_run, draw_ranks, change):
    ranks = draw_ranks(50, 0.5)
    folder = make_run("run", ranks=ranks)
    (run,) = runs.load([folder])
    task, path = "toys_retrieval", run.per_user_file("toys_retrieval")
    found = user_results.load(path, "retrieval", run.metrics[task])
    assert found.metrics() == pytest.approx(run.metrics[task], abs=1e-12)
    for key, value in run.metrics[task].items():
        assert found.values(key).mean() == pytest.approx(value, abs=1e-12), key
    assert found.ranks.tolist() == ranks.tolist(), "sorted by user"
    assert found.items[found.starts[7] : found.starts[8]].tolist() == [7, 8]
    wrong = run.metrics[task] | {"hr@10": run.metrics[task]["hr@10"] + 0.01}
    with pytest.raises(UserError, match="'hr@10' of"):
        user_results.load(path, "retrieval", wrong)


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("rank", [float("nan"), 1.0], "'rank'"),
        ("rank", [0.0, 1.0], "'rank'"),
        ("rank", [1.5, 1.0], "'rank'"),
        ("rank", ["1", "x"], "columns"),
        ("rank", [None, 1.0], "empty values in rank"),
        ("rank", None, "no column rank"),
        ("user", ["a", "a"], "'user'"),
        ("target", [-1, 2], "'target'"),
        ("target", [2**40, 2], "columns"),
        ("history", [-5, 2], "'history'"),
        ("items", [[-2], [1]], "'items'"),
        ("items", [[None], [1]], "empty values in items"),
        ("items", [list(range(101)), [1]], "'items'"),
        ("items", [1, 2], "columns"),
        ("group", ["new", "other"], "'group'"),
        ("group", [None, "new"], "empty values in group"),
        ("group", [1.5, 2.5], "'group'"),
    ],
)
def test_hostile_columns(tmp_path, column, values, told):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "user": ["a", "b"],
        "target": [0, 1],
        "history": [3, 4],
        "rank": [1.0, float("inf")],
        "items": [[0, 1], [2, -1]],
    }
    columns = columns | {column: values}
    path = tmp_path / "toys_retrieval-test.parquet"
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path)
    with pytest.raises(UserError) as error:
        user_results.load(path, "retrieval", {})
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_that_is_no_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    for content in (b"", b"PAR1" * 10, b"<html>"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.parquet"):
            user_results.load(path, "rating", {})


@pytest.fixture
def of_gift_cards(make_run, draw_ranks):
    """Makes runs on `gift_cards`."""

    def make(name: str, **told):
        told = {"dataset": "gift_cards", "task": "gift_cards_retrieval", **told}
        return make_run(name, ranks=draw_ranks(9, 1), **told)

    return make


def test_the_catalog_is_found_by_fingerprint(of_gift_cards, small_data_dir, tmp_path):
    fingerprint = open_dataset(small_data_dir, "gift_cards").fingerprint
    one, two = of_gift_cards("one", fingerprint=fingerprint), of_gift_cards("two")
    found = conditions.prepared_datasets([str(small_data_dir)], runs.load([one]))
    assert len(found[fingerprint].train_count) == 36
    with pytest.raises(UserError, match="'fingerprint' in"):
        conditions.prepared_datasets([str(small_data_dir)], runs.load([two]))
    with pytest.raises(UserError, match="--data_dir"):
        conditions.prepared_datasets([str(tmp_path / "none")], runs.load([one]))
    assert conditions.prepared_datasets([str(tmp_path)], runs.load([one])) == {}


def test_the_catalog_of_another_id_scheme_will_do(of_gift_cards, small_data_dir):
    of = open_dataset(small_data_dir, "gift_cards").split_fingerprint
    run = of_gift_cards("run", ids="atomic", split_fingerprint=of)
    found = conditions.prepared_datasets([str(small_data_dir)], runs.load([run]))
    assert len(found[of].train_count) == 36


def test_datasets_lie_in_several_folders(of_gift_cards, small_data_dir, tmp_path):
    here, there = dataset_dir(small_data_dir, "gift_cards"), dataset_dir(tmp_path, "gift_cards")
    there.mkdir(parents=True)
    for file in here.iterdir():
        if file.is_file():
            (there / file.name).write_bytes(file.read_bytes())
    info, other = DatasetInfo.load(here), "cd" * 32
    dataclasses.replace(info, fingerprint=other, split_fingerprint=other).save(there)
    checksums.write(there)
    one = of_gift_cards("one", fingerprint=info.fingerprint)
    two, none = of_gift_cards("two", fingerprint=other), of_gift_cards("none")
    folders = [str(small_data_dir), str(tmp_path)]
    found = conditions.prepared_datasets(folders, runs.load([one, two]))
    assert set(found) == {info.fingerprint, other}
    assert set(conditions.prepared_datasets(folders, runs.load([one]))) == {info.fingerprint}
    with pytest.raises(UserError, match="beside this one"):
        conditions.prepared_datasets(folders, runs.load([none]))
