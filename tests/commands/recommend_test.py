"""`recllm recommend` as a user sees it: the table, JSON, files, errors."""

import io
import json
import types

import pytest
import seqio

from recllm_tasks import cli
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
        (["--history", ""], "'--history 1': got none"),
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


def test_a_file_says_which_line_is_wrong(recommend, tmp_path):
    path = tmp_path / "histories.txt"
    for content, message in (
        (b"I1\n\nI2\n", f"'{path}, line 2': got none"),
        (b"I1\nI77\n", f"'{path}, line 2, item 1': got no such item"),
        (b"I1\n\xff\n", "got byte 0xff, expected UTF-8"),
        (b"", f"'{path}, line 1': got none"),
    ):
        path.write_bytes(content)
        code, _, error = recommend("--histories", str(path))
        assert code == 2
        assert message in error
