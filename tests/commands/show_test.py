"""`recllm show --throughput`: what it measures, and the limit that it reports."""

import json

import pytest

from recllm_tasks import cli
from recllm_tasks.commands import show
from recllm_tasks.pipeline import throughput
from recllm_tasks.pipeline.throughput import PACKING, Throughput


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(show, "_SECONDS", 0.2)


def test_throughput_names_every_stage_and_the_slowest(small_data, capsys, monkeypatch):
    measured = []
    measure = throughput.measure
    monkeypatch.setattr(
        throughput, "measure", lambda *asked: measured.append(measure(*asked)) or measured[0]
    )
    arguments = ["show", "gift_cards_raat", "--throughput", "--data_dir", str(small_data)]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kinds = [f"gift_cards_{kind}" for kind in ("ranking", "mim", "mlm", "bpr")]
    assert sorted(found["stages"]) == sorted([*kinds, PACKING])
    assert found["limit"] == max(found["stages"], key=found["stages"].get)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["examples"] > found["rows"] > 0
    assert found["one_by_one"] == []
    monkeypatch.setattr(throughput, "measure", lambda *asked: measured[0])
    assert cli.main(arguments) == 0
    assert "limited by: " in capsys.readouterr().out


def test_throughput_of_nothing_is_refused(small_data, capsys):
    assert cli.main(["show", "--throughput", "--data_dir", str(small_data)]) == 2
    assert "got no task" in capsys.readouterr().err


def test_the_limit_is_the_stage_that_takes_most():
    found = Throughput(1.0, 1.0, {"ranking": 1.0, "mlm": 9.0, "packing": 3.0}, {}, ())
    assert found.limit == "mlm"
