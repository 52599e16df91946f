"""The settings that `recllm train DATASET` chooses."""

import ast

import gin
import hypothesis
import pytest
from hypothesis import strategies as st

from recllm_tasks import gin_files, mixtures  # noqa: F401
from recllm_tasks.engine.recipe import Facts, choose

# As `recllm prepare` counts them, with --ids atomic for Toys and Beauty.
TOYS = Facts(19_412, 11_924, 128_773, True, True, "atomic", 1, 20)
BEAUTY = Facts(22_363, 12_101, 153_776, True, True, "atomic", 1, 20)
MOVIES = Facts(943, 1_349, 97_401, True, True, "random", 1, 20)
COMMON = ("models/ids.gin", "runs/finetune.gin", "runs/ids_sequence.gin")
GIVEN = ["DATASET = 'store'", "MODEL_DIR = '/run'"]

pytestmark = pytest.mark.usefixtures("clean_gin")


def configured(chosen: str, files=(), given=GIVEN) -> str:
    gin.clear_config()
    gin_files.parse(list(files), given, "training.train", chosen)
    return gin.config_str()


def changes(facts: Facts) -> dict[str, str]:
    """What differs from the included files."""
    lines = [line for line in choose(facts).text.splitlines() if " = " in line]
    return {line.split(" = ")[0]: line.split(" = ")[1].split("  #")[0] for line in lines}


@pytest.mark.parametrize(
    ("facts", "files"),
    [(TOYS, COMMON), (BEAUTY, COMMON), (MOVIES, (*COMMON, "runs/quickstart.gin"))],
)
def test_measured_datasets_get_the_settings_that_were_measured(facts, files):
    assert choose(facts).text == "".join(f"include {file!r}\n" for file in files)
    assert configured(choose(facts).text) == configured("", files)


def test_a_catalog_without_texts_begins_at_random():
    facts = TOYS._replace(has_texts=False)
    assert changes(facts) == {"initial_state.item_embeddings.source": "None"}
    assert "initial_state.item_embeddings.source = None" in configured(choose(facts).text)
    assert "--items" in choose(facts).notes[0]


def test_ids_of_several_tokens_get_longer_rows_and_a_hint():
    facts = TOYS._replace(ids="semantic", pieces=4)
    assert changes(facts) == {
        "TASK_FEATURE_LENGTHS": "{'inputs': 16, 'targets': 128}",
        "initial_state.item_embeddings.source": "None",
    }
    assert len(choose(facts).notes) == 1
    assert "`recllm prepare --ids atomic`" in choose(facts).notes[0]


def test_a_large_catalog_with_ratings_is_told_how_to_learn_them():
    (note,) = choose(TOYS).notes
    assert "runs/quickstart.gin" in note
    text = configured(choose(TOYS).text, ["runs/quickstart.gin"])
    assert "kind = 'ids_sequence_ut'" in text


def test_small_datasets_get_more_epochs_and_a_shorter_warm_up():
    tiny = Facts(50, 20, 410, False, True, "random", 1, 20)
    found = changes(tiny)
    assert float(found["EPOCHS"]) * (410 + 50) / 1024 == pytest.approx(400, rel=0.01)
    assert (found["WARMUP_STEPS"], found["EVAL_PERIOD"]) == ("80", "20")


def test_large_datasets_get_fewer_epochs_and_frequent_validations():
    found = changes(TOYS._replace(users=10**6, items=50_000, interactions=10**7))
    assert found["EPOCHS"] == "6"
    assert found["EVAL_PERIOD"] == "2000"
    assert int(found["PATIENCE"]) * 2000 >= 2 * 10**7 / 1024


@hypothesis.given(
    interactions=st.integers(1, 10**8),
    items=st.integers(1, 10**6),
    has_ratings=st.booleans(),
    has_texts=st.booleans(),
    pieces=st.integers(1, 8),
    window=st.integers(1, 200),
    devices=st.integers(1, 9),
)
@hypothesis.settings(deadline=None)
def test_settings_fit_every_dataset(interactions, items, window, devices, **rest):
    facts = Facts(items, items, interactions, ids="random", window=window, devices=devices, **rest)
    found = changes(facts)
    ut = "runs/quickstart.gin" in choose(facts).text
    batch_size = int(found.get("BATCH_SIZE", 8 if ut else 16))
    lengths = ast.literal_eval(found.get("TASK_FEATURE_LENGTHS", "{}"))
    length = lengths.get("targets", 128 if ut else 64)
    assert batch_size % devices == 0
    assert length >= window * (facts.pieces + ut) + 2
    of_epoch = interactions * ((3 if ut else 1) if facts.pieces == 1 else facts.pieces)
    of_epoch += facts.users * (1 + ut)
    steps = of_epoch / (batch_size * length)
    total = float(found.get("EPOCHS", 15 if ut else 20)) * steps
    assert total >= 399
    assert int(found.get("WARMUP_STEPS", 100)) <= total / 4
    assert total <= max(70_000, 3 * steps + 1)
    period = float(found.get("EVAL_PERIOD", steps))
    assert total / period < 25 or period == 2000
    assert period * int(found.get("PATIENCE", 4)) >= min(steps, 200)


def test_a_model_of_the_paper_gets_its_prompts():
    facts = MOVIES
    text = configured(choose(facts, "models/tiny.gin").text)
    assert "kind = 'ut_at'" in text
    assert "network.T5Config.vocab_size = @tasks.vocabulary_size()" in text
    text = configured(choose(facts._replace(has_ratings=False), "models/flan_t5_small.gin").text)
    assert "kind = 'reat'" in text
    assert "vocab_size = 32128" in text


def test_settings_of_the_user_come_last():
    given = [*GIVEN, "BATCH_SIZE = 7", "mixtures.named.kind = 'ids_sequence_rank'"]
    text = configured(choose(MOVIES).text, (), given)
    assert "BATCH_SIZE = 7" in text
    assert "kind = 'ids_sequence_rank'" in text


def test_an_own_file_of_ids_keeps_the_recipe(tmp_path):
    file = tmp_path / "wide.gin"
    file.write_text(
        "include 'models/ids.gin'\nMODEL_NAME = 'wide'\nnetwork.T5Config.emb_dim = 256\n"
    )
    text = configured(choose(TOYS, str(file)).text)
    assert "emb_dim = 256" in text
    assert "kind = 'ids_sequence'" in text
