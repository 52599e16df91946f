"""`recllm recommend` as a user sees it: the table, JSON, files, errors."""

import io
import json
import subprocess
import sys
import time
import types

import pyarrow.parquet as pq
import pytest
import seqio

from recllm_tasks import cli
from recllm_tasks.commands import recommend_file
from recllm_tasks.engine import inference
from recllm_tasks.prompts.source import SequenceSource
from recllm_tasks.recommender import Recommender

pytestmark = pytest.mark.usefixtures("clean_gin")


@pytest.fixture
def recommend(run_dir, small_data_dir, capsys):
    """Runs the command; returns (exit code, output, errors)."""

    def call(*arguments):
        common = ["recommend", "--checkpoint", run_dir, "--data_dir", str(small_data_dir)]
        code = cli.main([*common, *arguments])
        return code, *capsys.readouterr()

    yield call
    seqio.set_tfds_data_dir_override(None)


def test_the_table_shows_titles_and_probabilities(recommend):
    code, shown, _ = recommend(
        "--history", "I1, 'Gift card of store 3,'", "--history", "A005", "-k", "4"
    )
    assert code == 0
    lines = shown.splitlines()
    first = next(i for i, line in enumerate(lines) if "title" in line)
    assert lines[0].startswith("after I1 Gift card of store ")
    assert "Gift card of store 3," in " ".join(lines[:first])
    rows = [line.split() for line in lines[first + 1 :] if line[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"] * 2
    assert all(row[2:6] == ["Gift", "card", "of", "store"] for row in rows)
    assert 0 < float(rows[0][-1]) < 1
    assert shown.count("after I") == 2
    assert max(map(len, lines)) <= 80


def test_json_is_what_python_gets(recommend, run_dir, small_data_dir, tmp_path):
    (tmp_path / "histories.txt").write_bytes(b"\xef\xbb\xbfI2\r\nI4, I5\r\n")
    code, shown, _ = recommend(
        "--history", "I1", "--histories", str(tmp_path / "histories.txt"), "--json"
    )
    assert code == 0
    lines = [json.loads(line) for line in shown.splitlines()]
    histories = [["I1"], ["I2"], ["I4", "I5"]]
    assert [[item["short_id"] for item in line["history"]] for line in lines] == histories
    recommender = Recommender.from_run(run_dir, data_dir=str(small_data_dir))
    expected = [[item._asdict() for item in found] for found in recommender.recommend(histories)]
    assert [line["ranked"] for line in lines] == expected


def test_the_prior_changes_the_order(recommend):
    """Items that follow the last one in train come up; probabilities are the model's."""
    found = {}
    for weight in ("0", "2"):
        code, shown, _ = recommend(
            *("--history", "A005, A006", "--prior_weight", weight, "--json", "-k", "36")
        )
        assert code == 0
        found[weight] = json.loads(shown)["ranked"]
    alone, both = found["0"], found["2"]
    assert both[0]["item"] in ("A007", "A008")
    assert [item["item"] for item in both] != [item["item"] for item in alone]
    own = {item["item"]: item["log_prob"] for item in alone}
    assert all(item["log_prob"] == pytest.approx(own[item["item"]], abs=1e-4) for item in both)


def test_histories_come_from_standard_input(recommend, monkeypatch):
    stdin = types.SimpleNamespace(buffer=io.BytesIO(b"I7\nI8, I9"))
    monkeypatch.setattr("sys.stdin", stdin)
    code, shown, _ = recommend("--histories", "-", "--json", "-k", "1")
    assert code == 0
    lines = [json.loads(line) for line in shown.splitlines()]
    assert [len(line["history"]) for line in lines] == [1, 2]
    assert [len(line["ranked"]) for line in lines] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --history or --histories"),
        (["--history", "I1", "--out", "x.parquet"], "--out: got --history"),
        (["--all_users"], "--all_users: got no --out"),
        (["--all_users", "--history", "I1", "--out", "x.jsonl"], "got also --history"),
        (["--all_users", "--out", "x.csv"], "got 'x.csv', expected a name that ends in .parquet"),
        (["--all_users", "--out", "/no/such/x.jsonl"], "expected a file name in an existing fold"),
        (["--history", "I1", "--strict"], "--strict: got no --histories"),
        (["--history", "I1", "--overwrite"], "--overwrite: got no --out"),
        (["--history", "I1", "--batch_size", "0"], "--batch_size: got 0"),
        (["--history", "I1", "--history", "I1, I99"], "'--history 2, item 2': got no such item"),
        (["--history", "'store 3'"], "got 7 items, expected one: I"),
        (["--history", "I1, 'store"], "correct the quotes"),
        (["--history", "I1", "-k", "0"], "correct -k"),
        (["--history", "I1", "--prior_weight", "x"], "PRIOR_WEIGHT: got 'x', expected a number"),
        (["--history", "I1", "--prior_weight", "validation"], "got none chosen for step 4"),
        (["--history", "I1", "-k", "x"], "invalid int value"),
        (["--histories", "/no/such/file"], "No such file or directory"),
        (["--history", "I1", "--data_dir", "/no/such"], "is not prepared in /no/such"),
        (["--history", "I1", "--checkpoint", "/no/such"], "No run in '/no/such'"),
    ],
)
def test_errors_are_one_line_with_the_remedy(recommend, arguments, message):
    code, shown, error = recommend(*arguments)
    assert (code, shown) == (2, "")
    assert error.startswith("recllm: error: ")
    assert message in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"I1\nI77\n", "Name 'I77' for '{path}, row 2, item 1': got no such item"),
        (b"I1\n\xff\n", "'{path}, row 2': got byte 0xff, expected UTF-8"),
    ],
)
def test_strict_says_which_line_is_wrong(recommend, tmp_path, content, message):
    path = tmp_path / "histories.txt"
    path.write_bytes(content)
    code, shown, error = recommend("--histories", str(path), "--strict")
    assert (code, shown) == (2, "")
    assert message.format(path=path) in error


def test_without_strict_the_rest_is_answered(recommend, tmp_path):
    path = tmp_path / "histories.txt"
    path.write_bytes(b"I1, I77, I1\n\n\xff\n'I2\nI3, 'store 3'\nI4\n")
    code, shown, error = recommend("--histories", str(path), "--json", "--k", "3")
    assert code == 0
    lines = [json.loads(line) for line in shown.splitlines()]
    histories = [[item["short_id"] for item in line["history"]] for line in lines]
    assert histories == [["I1"], [], ["I3"], ["I4"]]
    assert [{item["source"] for item in line["ranked"]} for line in lines] == [
        *({"model"}, {"popular"}, {"model"}, {"model"})
    ]
    assert f"2 bad rows left out, the first: '{path}, row 3': got byte 0xff" in error
    assert f"1 names that fit no item skipped, the first: 'I77' in {path}, row 1" in error
    assert f"1 names that fit several items skipped, the first: \"'store 3'\" in {path}" in error
    assert f"1 repeats of an item skipped, the first: 'I1' in {path}, row 1" in error


def test_an_empty_history_is_answered_with_what_is_popular(recommend):
    code, shown, _ = recommend("--history", "", "-k", "3")
    assert code == 0
    assert shown.startswith("no item in the history: the most popular items")
    assert [line.split()[-1] for line in shown.splitlines()[2:5]] == ["popular"] * 3


@pytest.mark.parametrize("content", [b"", b"user,items\n"])
def test_a_file_without_a_history_is_an_error(recommend, tmp_path, content):
    path = tmp_path / "histories.csv"
    path.write_bytes(content)
    code, _, error = recommend("--histories", str(path))
    assert code == 2
    assert f"Histories in '{path}': got none, expected at least one" in error
    assert recommend("--histories", str(path), "--out", str(tmp_path / "out.jsonl"))[0] == 2
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def _rows(path):
    return pq.read_table(path).to_pylist()


def test_all_users_are_those_of_infer(recommend, run_dir, tmp_path, small_data):
    out = tmp_path / "recs.parquet"
    code, _, error = recommend("--all_users", "--out", str(out), "--with_history")
    assert code == 0
    assert f"60 users written to {out}" in error
    assert not out.with_name("recs.parquet.partial").exists()
    seqio.set_tfds_data_dir_override(str(small_data))
    inference.infer(model_dir=run_dir, output=str(tmp_path / "lines"), split="latest")
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert all("target" not in line for line in lines)
    expected = [
        {"user": line["user"], "rank": rank, **item, "source": "model"}
        for line in lines
        for rank, item in enumerate(line["ranked"][:10], 1)
    ]
    rows = _rows(out)
    # Batches of other sizes round otherwise.
    assert [{**row, "log_prob": pytest.approx(row["log_prob"], abs=1e-4)} for row in rows] == [
        {**row, "history": found["history"]} for row, found in zip(expected, rows, strict=True)
    ]
    records = SequenceSource("gift_cards").records("test").as_numpy_iterator()
    items = SequenceSource("gift_cards").catalog().item
    whole = {r["user"].decode(): [items[row] for row in r["items"]] for r in records}
    assert all(row["history"] == whole[row["user"]] for row in rows)
    code, _, error = recommend("--all_users", "--out", str(out))
    assert code == 2
    assert "which exists, expected a new file; give --overwrite" in error


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_a_killed_job_resumes_with_the_same_bytes(recommend, tmp_path, monkeypatch, ending):
    """Killed in its second and its third chunk of 16 users; each is a part."""
    monkeypatch.setattr(recommend_file, "GROUP_ROWS", 50)
    options = "--all_users", "--batch_size", "1", "-k", "3"
    whole, out = tmp_path / f"whole{ending}", tmp_path / f"out{ending}"
    assert recommend(*options, "--out", str(whole))[0] == 0
    answer, calls = Recommender.recommend_rows, []

    def fails(self, histories, k=10):
        calls.append(len(histories))
        if len(calls) in (2, 4):
            raise KeyError("killed")
        return answer(self, histories, k)

    monkeypatch.setattr(Recommender, "recommend_rows", fails)
    monkeypatch.setattr(recommend_file, "SECONDS_OF_PART", 0)
    for _ in range(2):
        with pytest.raises(KeyError, match="killed"):
            recommend(*options, "--out", str(out))
        assert not out.exists()
    code, _, error = recommend(*options, "--out", str(out), "--with_history")
    assert code == 2
    assert "got one of another model, other users or other settings" in error
    code, _, error = recommend(*options, "--out", str(out))
    assert code == 0
    assert "resuming after 32 users" in error
    assert calls == [16, 16, 16, 16, 16, 12]
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, whole.name]
    code, _, error = recommend(*options, "--out", str(out), "--overwrite")
    assert code == 0
    assert "resuming" not in error


def test_a_file_of_histories_gives_what_the_dataset_gives(recommend, tmp_path, small_data):
    """The dataset's sequences as events in a log of a shop, and as lists."""
    source = SequenceSource("gift_cards")
    items = source.catalog().item
    users = {
        record["user"].decode(): [items[row] for row in record["items"]]
        for record in source.records("test").as_numpy_iterator()
    }
    events = [f"{u};{i};{t}" for u, own in users.items() for t, i in reversed([*enumerate(own)])]
    (tmp_path / "log.csv").write_text("\n".join(["buyer;item_id;time", *events]))
    lines = [json.dumps({"user": user, "items": own}) for user, own in users.items()]
    (tmp_path / "lists.jsonl").write_text("\n".join(lines))
    expected = {}
    assert recommend("--all_users", "--out", str(tmp_path / "all.parquet"))[0] == 0
    for row in _rows(tmp_path / "all.parquet"):
        expected.setdefault(row["user"], []).append(row["item"])
    for name, *options in (("log.csv", "--columns", "user=buyer"), ("lists.jsonl",)):
        out = tmp_path / f"{name}.out.jsonl"
        code, _, _ = recommend(
            "--histories", str(tmp_path / name), *options, "--out", str(out), "--with_history"
        )
        assert code == 0
        found = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["user"] for line in found] == list(users)
        assert {line["user"]: [i["item"] for i in line["ranked"]] for line in found} == expected
        assert {line["user"]: [i["item"] for i in line["history"]] for line in found} == users


@pytest.mark.slow
def test_sigkill_at_any_time_loses_nothing(run_dir, small_data_dir, tmp_path):
    """A process that is killed twice, and one that is not."""

    def start(out):
        program = (
            "import time\n"
            "from recllm_tasks import cli\n"
            "from recllm_tasks.commands import recommend_file\n"
            "from recllm_tasks.recommender import Recommender\n"
            "answer, recommend_file.SECONDS_OF_PART = Recommender.recommend_rows, 0\n"
            "Recommender.recommend_rows = lambda *a: (time.sleep(0.5), answer(*a))[1]\n"
            f"command = ['recommend', '--checkpoint', {run_dir!r}, '--out', {out!r}]\n"
            f"command += ['--data_dir', {str(small_data_dir)!r}, '--all_users']\n"
            "command += ['--batch_size', '1']\n"
            "raise SystemExit(cli.main(command))"
        )
        return subprocess.Popen([sys.executable, "-P", "-c", program])

    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    assert start(str(whole)).wait() == 0
    for part in (0, 2):
        process = start(str(out))
        while not (tmp_path / "out.parquet.partial" / f"part-{part:06d}.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()
        assert not out.exists()
    assert start(str(out)).wait() == 0
    assert out.read_bytes() == whole.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
