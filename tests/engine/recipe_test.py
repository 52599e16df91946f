"""The settings that `recllm train DATASET` chooses."""

import ast
import pathlib

import gin
import hypothesis
import pytest
from hypothesis import strategies as st

from recllm_tasks import gin_files, mixtures  # noqa: F401
from recllm_tasks.engine import capacity
from recllm_tasks.engine.recipe import Facts, Machine, Pretrained, choose, fine_tuned
from recllm_tasks.errors import UserError
from recllm_tasks.models import network

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


def test_ids_of_several_tokens_get_what_they_need_and_a_hint():
    semantic = TOYS._replace(ids="semantic", pieces=4)
    assert choose(semantic).text.splitlines()[-1] == "include 'runs/ids_semantic.gin'"
    assert "network.T5Config.logits_via_embedding = False" in configured(choose(semantic).text)
    assert changes(semantic._replace(window=40)) == {
        "TASK_FEATURE_LENGTHS": "{'inputs': 16, 'targets': 192}"
    }
    # Digits say nothing about an item.
    digits = TOYS._replace(ids="random", pieces=4)
    assert changes(digits) == {
        "TASK_FEATURE_LENGTHS": "{'inputs': 16, 'targets': 128}",
        "initial_state.item_embeddings.source": "None",
    }
    for facts in (semantic, digits):
        (note,) = choose(facts).notes
        assert "`recllm prepare --ids atomic`" in note


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
    ids=st.sampled_from(["random", "semantic"]),
    pieces=st.integers(1, 8),
    window=st.integers(1, 200),
    devices=st.integers(1, 9),
)
@hypothesis.settings(deadline=None)
def test_settings_fit_every_dataset(interactions, items, window, devices, **rest):
    facts = Facts(items, items, interactions, window=window, devices=devices, **rest)
    found = changes(facts)
    ut = "runs/quickstart.gin" in choose(facts).text
    batch_size = int(found.get("BATCH_SIZE", 8 if ut else 16))
    lengths = ast.literal_eval(found.get("TASK_FEATURE_LENGTHS", "{}"))
    length = lengths.get("targets", 128 if ut or facts.ids == "semantic" else 64)
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


BASE = {
    "emb_dim": 768,
    "mlp_dim": 2048,
    "num_heads": 12,
    "num_encoder_layers": 12,
    "num_decoder_layers": 12,
}
XL = {
    "emb_dim": 2048,
    "mlp_dim": 5120,
    "num_heads": 32,
    "num_encoder_layers": 24,
    "num_decoder_layers": 24,
}


def _value(name: str):
    """A macro's value, through macros."""
    value = gin.query_parameter(name)
    return _value(str(value)) if isinstance(value, gin.config.ConfigurableReference) else value


def from_checkpoint(sizes, devices=1, memory=80e9, kind="A100") -> tuple:
    """(settings that gin read, the network's sizes, the text) for a checkpoint on some devices."""
    config = network.T5Config(vocab_size=32128, **sizes)
    start = Pretrained("flan", "hf://a/flan@0", pathlib.Path("/c/spiece.model"), config)
    text = fine_tuned(start, True, Machine(devices, memory, kind != "CPU", kind)).text
    configured(text, (), [*GIVEN, "vocabulary.sentencepiece_file.path = None"])
    names = ("BATCH_SIZE", "TRAIN_STEPS", "MODEL_PARALLEL", "INITIAL_CHECKPOINT", "LEARNING_RATE")
    values = {name: _value(f"%{name}") for name in names}
    return values, gin.get_configurable("network.T5Config")(), text


def test_a_checkpoint_gets_its_sizes_and_the_papers_schedule():
    values, config, text = from_checkpoint(BASE, memory=141e9)
    paper = network.T5Config(vocab_size=32128, dtype="bfloat16", **BASE)
    assert config == paper
    assert values["INITIAL_CHECKPOINT"] == "hf://a/flan@0"
    assert "include 'mixtures/ut_at.gin'" in text
    assert "vocabulary.sentencepiece_file.path = '/c/spiece.model'" in text


@pytest.mark.parametrize("memory", [16e9, 24e9, 40e9, 80e9, 141e9])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(("sizes", "steps", "rows"), [(BASE, 10_000, 64), (XL, 70_000, 16)])
def test_the_batch_fits_and_as_many_rows_are_seen(memory, devices, sizes, steps, rows):
    plain = network.T5Config(vocab_size=32128, **sizes)
    if (
        capacity.training_bytes(plain, 1, 1024, 256, remat=True, model_parallel=devices)
        > 0.9 * memory
    ):
        with pytest.raises(UserError, match="such as google/flan-t5-small"):
            from_checkpoint(sizes, devices, memory)
        return
    values, config, _ = from_checkpoint(sizes, devices, memory)
    copies = devices // values["MODEL_PARALLEL"]
    taken = capacity.training_bytes(
        config,
        values["BATCH_SIZE"] // copies,
        *(1024, 256),
        remat=config.remat,
        model_parallel=values["MODEL_PARALLEL"],
    )
    assert taken < 0.9 * memory
    assert values["BATCH_SIZE"] % copies == 0
    assert values["TRAIN_STEPS"] * values["BATCH_SIZE"] == steps * rows


def test_a_large_device_does_not_recompute_and_a_small_one_does():
    assert not from_checkpoint(BASE, memory=900e9)[1].remat
    assert from_checkpoint(BASE, memory=16e9)[1].remat


def test_a_processor_computes_in_float32():
    _, config, _ = from_checkpoint(BASE, memory=64e9, kind="CPU")
    assert config.dtype == "float32"
