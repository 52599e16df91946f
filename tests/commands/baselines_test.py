"""`recllm baselines` as users and programs see it."""

import json
import subprocess
import sys
import types

import ir_measures
import pytest
import seqio
from ir_measures import RR, Qrel, ScoredDoc, Success, nDCG

from recllm_tasks import cli
from recllm_tasks.baselines import built_in, interactions, rows
from recllm_tasks.baselines.rows import ROWS
from recllm_tasks.files import read_json
from recllm_tasks.runs import per_user

NAME = "gift_cards"
BUILT_IN = [name for name in rows.GROUPS["house"] if not rows.ROWS[name].needs_repeats]


@pytest.fixture(autouse=True)
def _forget_data_dir():
    yield
    seqio.set_tfds_data_dir_override(None)


@pytest.fixture(scope="module")
def out(tmp_path_factory, small_data_dir):
    """A folder with the rows of the built-in baselines."""
    folder = tmp_path_factory.mktemp("rows")
    assert _run(small_data_dir, folder, "house") == 0
    return folder


def _run(data_dir, out, names, *more) -> int:
    arguments = ["--rows", names, "--out", str(out), "--data_dir", str(data_dir)]
    return cli.main(["baselines", NAME, *arguments, *more])


def _results(out, names=BUILT_IN):
    return {name: read_json(out / name / "results.json") for name in names}


def test_a_row_is_a_run_folder(out):
    keys = {"dataset", "fingerprint", "model", "step", "seed", "split", "metrics", "baselines"}
    keys |= {"seconds", "ties", "settings", "parameters", "num_examples", "peak_memory_bytes"}
    keys |= {"split_fingerprint", "ids"}
    for name, results in _results(out).items():
        assert keys <= set(results)
        assert results["model"] == name
        assert results["ties"] == "published"
        assert results["decoding"] is None
        assert results["seen"] == "leave_out", "without repeats"
        path = out / name / results["per_user"][next(iter(results["metrics"]))]
        assert per_user.facts(path)["seen"] == "leave_out"
        groups = results["by_target"]
        assert set(groups) == set(results["metrics"])
        assert {sum(group["users"] for group in of.values()) for of in groups.values()} == {60}
        latest = (out / name / "results.json").read_bytes()
        assert (out / name / "results" / "test.json").read_bytes() == latest
        kinds = {task.removeprefix(f"{NAME}_") for task in results["metrics"]}
        assert kinds == set(ROWS[name].kinds)
        for task, metrics in results["metrics"].items():
            path = out / name / results["per_user"][task]
            assert path == per_user.path_of(out / name, "test", task)
            assert per_user.metrics(path) == metrics
            assert results["examples_per_second"][task] > 0
            assert sum(len(batch) for batch in per_user.read(path)) == 60
    ease = _results(out)["ease"]["settings"]
    assert ease["lambda"] in ease["lambdas"]
    assert f"{ease['lambda']:g}" in ease["validation_ndcg@10"]
    assert set(map(float, ease["validation_ndcg@10"])) <= set(ease["lambdas"])


def test_a_row_measures_what_eval_prints_beside_a_model(out, small_data):
    kinds = ("retrieval", "ranking", "rating")
    tasks = [f"{NAME}_{kind}" for kind in kinds]
    expected = built_in.measure_baselines(NAME, "test", dict.fromkeys(tasks, 60))
    assert set(expected) == set(built_in.QUICK) - {"own_popularity"}, "without repeats"
    found = {name: results["metrics"] for name, results in _results(out).items()}
    for name, by_task in expected.items():
        for task, metrics in by_task.items():
            # No list holds what is no item.
            assert {k: v for k, v in found[name][task].items() if k != "invalid"} == metrics


def test_reading_the_data_is_not_counted_as_a_rows_work(small_data, monkeypatch):
    read, now = interactions.read_split, [0.0]

    def slow(*args, **kwargs):
        now[0] += 100
        return read(*args, **kwargs)

    monkeypatch.setattr(interactions, "read_split", slow)
    monkeypatch.setattr(built_in, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    for name in ("popularity", "ease", "history"):
        splits = interactions.Splits(NAME, "test")
        measured = built_in.measure(ROWS[name], splits, ROWS[name].kinds, "keep")
        assert measured.fit_seconds + measured.seconds.get("rating", 0) == 0
    assert now == [400], "the test split each time, validation for EASE"


@pytest.mark.parametrize("kind", ["retrieval", "ranking"])
def test_ir_measures_finds_the_same(out, kind):
    measures = {"hr@1": Success @ 1, "hr@10": Success @ 10, "ndcg@5": nDCG @ 5, "mrr": RR @ 20}
    for name in ("ease", "markov", "item_to_item"):
        path = per_user.path_of(out / name, "test", f"{NAME}_{kind}")
        (batch,) = per_user.read(path)
        qrels, run, short = [], [], []
        for user, target, rank, items in zip(
            *(batch[column].to_pylist() for column in ("user", "target", "rank", "items"))
        ):
            qrels.append(Qrel(user, str(target), 1))
            short.append(rank <= len(items))
            # A negative drawn twice is one document, but each draw keeps its rank.
            seen = [
                f"{item}" if item not in items[:place] else f"{item} again {place}"
                for place, item in enumerate(items)
            ]
            run += [ScoredDoc(user, item, -place) for place, item in enumerate(seen)]
        found = ir_measures.calc_aggregate(measures.values(), qrels, run)
        expected = per_user.metrics(path)
        for key, measure in measures.items():
            if key != "mrr" or all(short):
                assert found[measure] == pytest.approx(expected[key], abs=1e-12), (name, key)


def test_a_finished_row_is_not_computed_again(out, small_data_dir, tmp_path, capsys):
    names = "markov,popularity"
    assert _run(small_data_dir, tmp_path, names) == 0
    files = {name: tmp_path / name / "results" / "test.json" for name in names.split(",")}
    first = {name: path.read_bytes() for name, path in files.items()}
    files["markov"].write_text('{"metrics": {}}')
    capsys.readouterr()
    assert _run(small_data_dir, tmp_path, names) == 0
    told = capsys.readouterr().err
    assert told.count("already finished") == 1
    assert files["popularity"].read_bytes() == first["popularity"]
    again = json.loads(files["markov"].read_bytes())
    assert again["metrics"] == json.loads(first["markov"])["metrics"]
    # Another split is another evaluation; without its per-user results it is incomplete.
    assert _run(small_data_dir, tmp_path, "popularity", "--split", "validation") == 0
    assert "already finished" not in capsys.readouterr().err
    assert files["popularity"].read_bytes() == first["popularity"]
    per_user.path_of(tmp_path / "markov", "test", f"{NAME}_ranking").unlink()
    assert _run(small_data_dir, tmp_path, "markov") == 0
    assert "already finished" not in capsys.readouterr().err


def test_json_and_the_table(out, small_data_dir, capsys):
    assert _run(small_data_dir, out, "ease , history,ease", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {name: _results(out)[name] for name in ("ease", "history")}
    assert _run(small_data_dir, out, "ease,popularity,item_mean") == 0
    shown = capsys.readouterr().out
    for words in (f"{NAME}_retrieval, test, 60 users, seen items left out", "ease", "hr@10"):
        assert words in shown
    for words in (f"{NAME}_rating, test, 60 users, items given", "item_mean", "auc"):
        assert words in shown


def test_one_rule_for_all_rows_that_are_asked_for(out, small_data_dir, tmp_path, capsys):
    names = "popularity,item_to_item,history"
    rows_asked = names.split(",")
    assert _run(small_data_dir, tmp_path, names, "--seen", "keep") == 0
    assert f"{NAME}_retrieval, test, 60 users, seen items kept" in capsys.readouterr().out
    kept, left = _results(tmp_path, rows_asked), _results(out)
    task = f"{NAME}_retrieval"
    for name, results in kept.items():
        assert results["seen"] == "keep"
        if name != "history":
            assert results["metrics"][task]["mrr"] <= left[name]["metrics"][task]["mrr"]
    # The most popular items are in many histories.
    popular, others = (rows["popularity"]["metrics"][task]["mrr"] for rows in (kept, left))
    assert popular < others
    # Under the other rule it is another row, also in a folder where one is.
    assert _run(small_data_dir, tmp_path, names) == 0
    assert "already finished" not in capsys.readouterr().err
    again = _results(tmp_path, rows_asked).values()
    assert {results["seen"] for results in again} == {"leave_out"}
    again = built_in.measure_baselines(NAME, "test", {task: 60}, "keep")
    assert again["item_to_item"][task] == {
        key: value
        for key, value in kept["item_to_item"]["metrics"][task].items()
        if key != "invalid"
    }


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (
            "popularty",
            (),
            "--rows: got 'popularty', expected the name of a row, perhaps popularity",
        ),
        ("xyzzy", (), "--rows: got 'xyzzy', expected names among popularity"),
        ("", (), "--rows: got ''"),
        ("popularity_unseen", (), "expected popularity with --seen leave_out"),
        ("popularity", ("--seen", "some"), "--seen: got 'some', expected leave_out or keep"),
        ("ease,,markov", (), "--rows: got ''"),
        ("../ease", (), "--rows: got '../ease'"),
        ("popularity", ("--split", "train"), "--split: got 'train', expected validation or test"),
        ("popularity", ("--out", "/dev/null/x"), "--out for '/dev/null/x'"),
        ("popularity", ("--data_dir", "/dev/null"), "not prepared"),
        ("popularity", ("--no_such",), "Unknown argument"),
        ("all", ("--recbole_python", "/no/python"), "launch/install_baselines.sh"),
        ("ease,hgn", ("--minutes", "nan"), "--minutes: got nan, expected a number"),
        ("hgn", ("--epochs", "0"), "--epochs: got 0, expected a whole number of at least 1"),
        ("hgn", ("--epochs", "x"), "invalid int value: 'x'"),
    ],
)
def test_wrong_arguments_are_reported(names, more, message, small_data_dir, tmp_path, capsys):
    assert _run(small_data_dir, tmp_path / "out", names, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("recllm: error: ")
    assert message in error
    assert "Traceback" not in error


def test_damaged_results_are_reported(small_data_dir, tmp_path, capsys):
    (tmp_path / "popularity" / "results").mkdir(parents=True)
    (tmp_path / "popularity" / "results" / "test.json").write_text("{")
    assert _run(small_data_dir, tmp_path, "popularity") == 2
    assert "Damaged file" in capsys.readouterr().err


def test_help_is_complete_and_quick():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "recllm_tasks.cli", "baselines", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for row in ROWS.values():
        assert f"{row.name} " in done.stdout
        assert row.what in done.stdout
    assert "--rows popularity,item_to_item,ease,markov" in done.stdout
    for heavy in ("tensorflow", "jax", "scipy"):
        assert heavy not in done.stderr


def test_rows_have_one_name_and_are_found_in_every_spelling():
    for spelled in ("item_to_item", "item-to-item", "Item-to-item", "itemtoitem", " item to item "):
        assert [row.name for row in rows.chosen(spelled)] == ["item_to_item"]
        assert rows.name_of(spelled) == "item_to_item"
    assert rows.name_of("popularity_unseen") == "popularity"
    assert rows.name_of("house") is None
    assert len(rows.chosen("HOUSE")) == len(rows.GROUPS["house"])
