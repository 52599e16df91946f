"""`recllm report` as users and programs see it."""

import json

import numpy as np
import pytest

from recllm_tasks import cli


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "ease"
    folder.mkdir(parents=True)
    results = {
        "dataset": "toys",
        "fingerprint": "ab" * 32,
        "model": "ease",
        "split": "test",
        "metrics": {"toys_retrieval": {"hr@10": 0.0735, "ndcg@10": 0.0423}},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_three_files_are_written(run, tmp_path, capsys):
    out = tmp_path / "report.html"
    assert cli.main(["report", str(tmp_path / "runs"), "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rows"] == 1
    assert set(facts["files"]) == {"html", "markdown", "csv"}
    for form in ("html", "md", "csv"):
        assert "0.0735" in (tmp_path / f"report.{form}").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUNS", "--out", "report.pdf"], "expected .html"),
        (["RUNS", "--out", "no/such/report.html"], "got no folder"),
        (["nothing_here", "--out", "report.html"], "nothing_here"),
        (["RUNS"], "--out"),
    ],
)
def test_errors_that_the_user_can_fix(run, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [str(run) if argument == "RUNS" else argument for argument in arguments]
    assert cli.main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_training_curves_are_read_from_the_runs_own_log(run, tmp_path):
    from clu import metric_writers

    writer = metric_writers.create_default_writer(str(run), just_logging=False)
    for step in (20, 40, 60):
        writer.write_scalars(step, {"loss": 9.0 - step / 20})
        writer.write_scalars(step, {"validation/toys_retrieval/ndcg@10": step / 1_000})
    writer.flush()
    writer.close()
    out = tmp_path / "report.html"
    assert cli.main(["report", str(run), "--out", str(out)]) == 0
    assert (
        "| ease | 60 | 6.000 | toys\\_retrieval/ndcg@10 | 0.0600 | 60 |"
        in (tmp_path / "report.md").read_text()
    )
    assert out.read_text().count("<figure>") == 2
    results = json.loads((run / "results.json").read_text())
    results["settings"] = {"curve": [{"epoch": 1, "loss": 5.0}, {"epoch": 2, "loss": 4.5}]}
    (run / "results.json").write_text(json.dumps(results))
    assert cli.main(["report", str(run), "--out", str(out)]) == 0
    assert "| ease | 2 | 4.500 |" in (tmp_path / "report.md").read_text()
    (log,) = run.glob("events.out.tfevents.*")
    whole = log.read_bytes()
    for damaged in (whole[:-7], whole[:-60] + bytes(60)):
        log.write_bytes(damaged)
        assert cli.main(["report", str(run), "--out", str(out)]) == 0
        assert "| ease | 60 |" in (tmp_path / "report.md").read_text(), "all but the last record"
    for damaged in (np.arange(200, dtype=np.uint8).tobytes(), whole[:5], b"\xff" * 9, bytes(40)):
        log.write_bytes(damaged)
        assert cli.main(["report", str(run), "--out", str(out)]) == 2
    log.write_bytes(np.arange(200, dtype=np.uint8).tobytes())
    assert cli.main(["report", str(run), "--out", str(out)]) == 2


def test_help_is_complete(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["report", "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "per_user/<evaluation>/<task>.parquet" in shown
    assert "recllm report" in shown
