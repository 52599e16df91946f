"""Datasets that several tests share: a small real-shaped one, and where the published files lie."""

import gzip
import json
import os
import pathlib
import sys
import tempfile

import pytest

import recllm_tasks  # noqa: F401 - loads Triton before TensorFlow

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Programs are compiled once for all test processes and those that they start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="recllm_tests_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

# Models are so small here that compiling takes the time, and optimising most of that.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"


@pytest.fixture(scope="module", autouse=True)
def _no_compiled_programs_left():
    """Each holds memory maps, of which Linux allows a process 65,530; beyond, it dies."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with the published Amazon files and the T5 vocabulary; skips where absent."""
    default = pathlib.Path(__file__).parents[1].parent / "shared"
    folder = pathlib.Path(os.environ.get("RECLLM_SHARED", default))
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the Amazon files in {folder}/data (set RECLLM_SHARED)")
    return folder


def write_gift_cards(folder: pathlib.Path, num_users: int = 60, num_items: int = 36) -> None:
    """A whole small `gift_cards`: the user's next item is mostly the one after the last.

    Sequences have 5 to 28 items, so that some are longer than the window. Every item is frequent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for user in range(num_users):
        length = 5 + (user * 7) % 24
        for place in range(length):
            lines.append(
                {
                    "reviewerID": f"U{user:03d}",
                    "asin": f"A{(user * 5 + place) % num_items:03d}",
                    "unixReviewTime": 1_000_000_000 + 86_400 * place,
                    "overall": float(1 + (user + place) % 5),
                }
            )
    items = [
        {
            "asin": f"A{item:03d}",
            "title": f"Gift card of store {item}, " + "very " * (item % 7) + "nice",
            "brand": "Store" if item % 2 else "",
            "price": f"${item}.50",
            "category": ["Gift Cards", "Gift Cards"],
        }
        for item in range(num_items)
    ]
    for name, records in (("Gift_Cards_5", lines), ("meta_Gift_Cards", items)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


@pytest.fixture(scope="session")
def small_data_dir(tmp_path_factory) -> pathlib.Path:
    """A data folder with a small `gift_cards`, prepared, its vocabulary trained."""
    import seqio

    from recllm_tasks.data.prepare import prepare
    from recllm_tasks.prompts.source import CatalogSource
    from recllm_tasks.prompts.vocabulary_training import ensure_vocabulary

    folder = tmp_path_factory.mktemp("small")
    write_gift_cards(folder / "raw")
    prepare("gift_cards", folder / "data", folder / "raw")
    before = seqio.LazyTfdsLoader("rec_sequences:1.0.0").data_dir
    seqio.set_tfds_data_dir_override(str(folder / "data"))
    ensure_vocabulary(CatalogSource("gift_cards"))
    seqio.set_tfds_data_dir_override(before)
    return folder / "data"


@pytest.fixture
def small_data(small_data_dir):
    """`small_data_dir`, in force for the test."""
    import seqio

    seqio.set_tfds_data_dir_override(str(small_data_dir))
    yield small_data_dir
    seqio.set_tfds_data_dir_override(None)


@pytest.fixture(scope="session")
def network():
    """A very small model."""
    from recllm_tasks.models.network import T5Config, Transformer

    return Transformer(
        T5Config(
            vocab_size=4096,
            emb_dim=32,
            num_heads=2,
            num_encoder_layers=1,
            num_decoder_layers=1,
            head_dim=16,
            mlp_dim=64,
            dropout_rate=0.1,
        )
    )


@pytest.fixture(scope="session")
def forced_scores():
    """`score_targets`."""
    import jax

    return jax.jit(score_targets, static_argnums=0)


def score_targets(model, params, encoder_tokens_BxL, target_tokens_BxT):
    """The summed log-probability of each target by teacher forcing, float32 [B]; 0 is padding."""
    import jax
    import jax.numpy as jnp

    inputs_BxT = jnp.pad(target_tokens_BxT, ((0, 0), (1, 0)))[:, :-1]
    logits_BxTxV = model.apply(
        {"params": params}, encoder_tokens_BxL, inputs_BxT, target_tokens_BxT, enable_dropout=False
    )
    chosen_BxT = jnp.take_along_axis(logits_BxTxV, target_tokens_BxT[..., None], axis=2)[..., 0]
    log_probs_BxT = chosen_BxT - jax.nn.logsumexp(logits_BxTxV, axis=-1)
    return jnp.sum(jnp.where(target_tokens_BxT > 0, log_probs_BxT, 0.0), axis=1)


@pytest.fixture(scope="session")
def decoding_buckets() -> tuple[int, ...]:
    """Fewer than decoding.BUCKETS, for tests that decode many lengths."""
    return (32, 128, 512, 2048)


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory, small_data_dir, network, decoding_buckets) -> str:
    """The folder of a run of a few steps on the small dataset; not to be written to."""
    import seqio

    import recllm_tasks.mixtures  # noqa: F401
    from recllm_tasks.engine import decoding, optimizer, training

    before = seqio.LazyTfdsLoader("rec_sequences:1.0.0").data_dir
    seqio.set_tfds_data_dir_override(str(small_data_dir))
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "BUCKETS", decoding_buckets)
        training.train(
            mixture="gift_cards_ut",
            model_dir=str(folder),
            model_name="very_small",
            lengths={"inputs": 512, "targets": 64},
            network=network,
            optimizer=optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10)),
            steps=4,
            batch_size=4,
            eval_period=4,
        )
    seqio.set_tfds_data_dir_override(before)
    return str(folder)


@pytest.fixture(scope="session")
def every_item_is_a_target_once():
    """`check_every_target`."""
    return check_every_target


def check_every_target(task, lengths, hosts: int = 3) -> int:
    """Checks an epoch of a task with every item a target; returns the number of its examples.

    Each item after the first of each train record is the target of one example, its history the up
    to w items before it; a record of one item makes an example without a history. The same holds
    for `hosts` that share the epoch, and training packs the same examples.
    """
    import collections
    import itertools

    import seqio

    from recllm_tasks.pipeline.examples import training_batches_of

    window, expected = task.source.info().window, {}
    for record in task.source.records("train").as_numpy_iterator():
        items, ratings = record["items"].tolist(), record["ratings"].tolist()
        for place in range(1, len(items)) if len(items) > 1 else [0]:
            shown = slice(max(0, place - window), place)
            example = (items[shown], ratings[shown], items[place], ratings[place])
            expected[record["user"], place] = example
    shards = [None, *(seqio.ShardInfo(host, hosts) for host in range(hosts))]
    parts = [
        list(
            task.get_dataset(
                lengths, split="train", shuffle=True, seed=3, shard_info=shard
            ).as_numpy_iterator()
        )
        for shard in shards
    ]
    for examples in (parts[0], list(itertools.chain(*parts[1:]))):
        found = collections.Counter()
        for example in examples:
            history = example["history"].tolist()
            place = int(example["window"]) + len(history)
            found[example["user"], place] += 1
            shown = (history, example["history_ratings"].tolist())
            target = (int(example["target"]), float(example["target_rating"]))
            assert (*shown, *target) == expected[example["user"], place]
        assert found == dict.fromkeys(expected, 1)
    made = collections.Counter(_tokens(parts[0]))
    assert task.source.num_examples() == made.total() == len(expected)
    batches = training_batches_of(task, lengths, len(expected), seed=3)
    (packed,) = batches.take(1)
    rows = zip(packed["inputs"].to_list(), packed["targets"].to_list(), strict=True)
    assert collections.Counter(str(row) for row in rows) == made
    return len(expected)


def _tokens(examples):
    return [str((e["inputs"].tolist(), e["targets"].tolist())) for e in examples]


@pytest.fixture
def clean_gin():
    """No settings before and after the test."""
    import gin

    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(scope="session")
def make_movies():
    """`write_movies`."""
    return write_movies


def write_movies(folder: pathlib.Path, num_users: int = 30, num_movies: int = 40) -> None:
    """A small `movielens_100k` in RecBole's atomic files."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(num_users):
        for place in range(6 + user % 20):
            movie = (user * 3 + place) % num_movies
            lines.append(f"{user}\t{movie}\t{1 + (user + place) % 5}\t{1000 * user + place}")
    (folder / "ml-100k.inter").write_text("\n".join(lines) + "\n")
    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    items += [f"{m}\tThe {m}th Movie\t{1950 + m}\tDrama" for m in range(num_movies)]
    (folder / "ml-100k.item").write_text("\n".join(items) + "\n")
