import dataclasses
import io

import pytest
from rich.console import Console

from recllm_tasks.report import terminal
from recllm_tasks.runs import results
from recllm_tasks.runs.decoding import Decoding
from recllm_tasks.runs.results import Results

RESULTS = Results(
    dataset="shop",
    fingerprint="f",
    split_fingerprint="s",
    model="ids",
    mixture="shop_ids_sequence_ut",
    step=3,
    seed=0,
    split="test",
    seen="leave_out",
    decoding=Decoding(seen="leave_out", prior_weight=1.5),
    metrics={
        "shop_ids_sequence": {"hr@10": 0.3, "ndcg@10": 0.2},
        "shop_ids_sequence_ranking": {"hr@1": 0.1, "hr@10": 0.9},
        "shop_ids_rating": {"auc": 0.7},
        "shop_other": {"accuracy": 0.5},
    },
    baselines={
        "item_to_item": {
            "shop_ids_sequence": {"hr@10": 0.25, "ndcg@10": 0.21},
            "shop_ids_sequence_ranking": {"hr@1": 0.2, "hr@10": 0.8},
        }
    },
)


def _printed(found: Results, alone: Results | None = None) -> str:
    console = Console(file=io.StringIO(), width=200)
    terminal.print_results(found, console, alone)
    return console.file.getvalue()


def test_the_last_line_says_which_method_is_ahead():
    ahead = (
        "ids + item_to_item in retrieval (hr@10 0.3000)",
        "item_to_item in ranking (hr@1 0.2000)",
    )
    assert _printed(RESULTS).splitlines()[-1] == f"ahead: {', '.join(ahead)}"
    assert "ahead" not in _printed(dataclasses.replace(RESULTS, baselines={}))


def test_the_model_alone_has_a_row_beside_the_one_with_the_prior():
    alone = dataclasses.replace(
        RESULTS, decoding=Decoding(seen="leave_out"), metrics={"shop_ids_sequence": {"hr@10": 0.4}}
    )
    printed = _printed(RESULTS, alone)
    assert "ids                 0.4000" in printed
    assert printed.splitlines()[-1].startswith("ahead: ids in retrieval (hr@10 0.4000), ")


def test_a_rating_is_the_models_alone():
    alone = dataclasses.replace(
        RESULTS, decoding=Decoding(seen="leave_out"), metrics={"shop_ids_rating": {"auc": 0.7}}
    )
    found = dataclasses.replace(
        RESULTS,
        metrics={"shop_ids_rating": {"auc": 0.7}},
        baselines={"item_mean": {"shop_ids_rating": {"auc": 0.6}}},
    )
    printed = _printed(found, alone)
    assert printed.splitlines()[-1] == "ahead: ids in rating (auc 0.7000)"
    assert printed.count("0.7000") == 2


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("shop_retrieval", "retrieval"),
        ("shop_ids_retrieval", "retrieval"),
        ("shop_ids_sequence", "retrieval"),
        ("shop_ids_sequence_ranking", "ranking"),
        ("shop_ids_rating", "rating"),
        ("shop_mine", "shop_mine"),
    ],
)
def test_the_kind_of_a_task(task, kind):
    assert results.kind_of(task) == kind
