"""Random, semantic and atomic ids: the same tasks, trie and audit serve all three."""

import itertools
import json

import gin
import numpy as np
import pytest
import seqio

from recllm_tasks import cli, gin_files, mixtures, tasks
from recllm_tasks.audit.id_readers import IdReader
from recllm_tasks.audit.ragged import Ragged
from recllm_tasks.data.dataset_info import open_dataset
from recllm_tasks.data.id_schemes import read_numbers
from recllm_tasks.data.item_embeddings import check_embeddings, network_vectors
from recllm_tasks.data.options import ID_SCHEMES
from recllm_tasks.data.prepare import prepare
from recllm_tasks.engine import initial_state
from recllm_tasks.engine.answer_tries import answers_of
from recllm_tasks.errors import UserError
from recllm_tasks.models.network import T5Config, Transformer
from recllm_tasks.pipeline.examples import batches_of
from recllm_tasks.prompts.source import CatalogSource, SequenceSource
from recllm_tasks.prompts.token_table import encode
from recllm_tasks.prompts.vocabulary_training import ensure_vocabulary

NAME = "movielens_100k"


@pytest.fixture(scope="module")
def data_dirs(tmp_path_factory, make_movies):
    """Data folders of the same movies by scheme; embeddings have six kinds, three items alike."""
    folder = tmp_path_factory.mktemp("schemes")
    make_movies(folder / "raw")
    rows = np.zeros(40, [("item", "U4"), ("embedding", "f4", (8,))])
    rows["item"], rows["embedding"] = np.arange(40), np.eye(8)[np.arange(40) % 6]
    rows["embedding"][3:, 6] = np.arange(3, 40) / 100
    np.save(folder / "e.npy", rows)
    for scheme in ID_SCHEMES:
        embeddings = folder / "e.npy" if scheme == "semantic" else None
        prepare(NAME, folder / scheme, folder / "raw", ids=scheme, embeddings=embeddings)
        seqio.set_tfds_data_dir_override(str(folder / scheme))
        ensure_vocabulary(CatalogSource(NAME))
    yield {scheme: folder / scheme for scheme in ID_SCHEMES}
    seqio.set_tfds_data_dir_override(None)


@pytest.fixture(params=ID_SCHEMES)
def scheme(request, data_dirs):
    seqio.set_tfds_data_dir_override(str(data_dirs[request.param]))
    return request.param


def test_schemes_differ_only_in_ids(data_dirs):
    """So their results can be compared."""
    infos = [open_dataset(folder, NAME) for folder in data_dirs.values()]
    assert len({info.split_fingerprint for info in infos}) == 1
    assert len({info.fingerprint for info in infos}) == len(ID_SCHEMES)
    items, tests = [], []
    for folder in data_dirs.values():
        seqio.set_tfds_data_dir_override(str(folder))
        source = SequenceSource(NAME)
        items.append(source.catalog().item)
        records = source.records("test").as_numpy_iterator()
        tests.append([(r["user"], r["items"].tolist(), r["negatives"].tolist()) for r in records])
    assert items[0] == items[1] == items[2]
    assert tests[0] == tests[1] == tests[2]


def test_the_trie_holds_every_item_once(scheme):
    task = tasks.get(f"{NAME}_retrieval")
    vocabulary, catalog = task.output_features["targets"].vocabulary, task.source.catalog()
    answers = answers_of(task)
    assert answers.texts == catalog.short_id
    assert answers.trie.num_items == len(catalog) == len(set(catalog.short_id))
    values, splits = encode(catalog.short_id, vocabulary)
    rows = [tuple(values[a:b].tolist()) for a, b in itertools.pairwise(splits)]
    assert len(set(rows)) == len(rows)
    assert [vocabulary.decode(list(row)) for row in rows] == catalog.short_id
    if scheme == "atomic":
        assert {len(row) for row in rows} == {1}
    if scheme == "semantic":
        assert {len(row) for row in rows} == {4}
        numbers = read_numbers(catalog.short_id)
        for level in range(1, 4):
            begin = {}
            for row, codes in zip(rows, numbers.tolist()):
                assert begin.setdefault(tuple(codes[:level]), row[:level]) == row[:level]
            assert len(set(begin.values())) == len(begin)


@pytest.mark.usefixtures("clean_gin")
def test_embeddings_of_codes_start_from_what_their_items_have_in_common(data_dirs):
    seqio.set_tfds_data_dir_override(str(data_dirs["semantic"]))
    task, vectors = tasks.get(f"{NAME}_ids_sequence"), data_dirs["semantic"].parent / "e.npy"
    network = Transformer(T5Config(vocab_size=1024, emb_dim=8))
    gin.bind_parameter("initial_state.item_embeddings.source", str(vectors))
    rows = initial_state.item_rows(task, network, 0, None, is_resumed=False)
    catalog, vocabulary = CatalogSource(NAME).catalog(), task.output_features["targets"].vocabulary
    vector_of = dict(zip(rows.tokens.tolist(), rows.vectors))
    of_items = network_vectors(catalog, check_embeddings(str(vectors)), NAME, 0, 8, lambda n: None)
    numbers = read_numbers(catalog.short_id)
    pieces = [vocabulary.encode(short_id) for short_id in catalog.short_id]
    assert set(vector_of) <= {token for own in pieces for token in own[:3]}  # no last number
    left = of_items.astype(np.float64)
    for level in range(3):
        codes = numbers[:, level]
        mean = {code: left[codes == code].mean(axis=0) for code in set(codes.tolist())}
        # Codes of equal items, where nothing is left, begin at random.
        large = {code for code, vector in mean.items() if np.linalg.norm(vector) > 1e-5}
        size = np.sqrt(np.mean(np.square([mean[code] for code in large]))) if large else 1
        assert large or level == 2
        for own, code in zip(pieces, codes.tolist()):
            assert (own[level] in vector_of) == (code in large)
            if code in large:
                np.testing.assert_allclose(vector_of[own[level]], mean[code] / size, atol=2e-4)
        left = left - np.array([mean[code] for code in codes.tolist()])
        length = np.linalg.norm(left, axis=1, keepdims=True)
        left = np.where(length > 1e-5, left / np.maximum(length, 1e-5), 0)


@pytest.mark.usefixtures("clean_gin")
@pytest.mark.parametrize(
    "mixture", [name for name in mixtures.TASKS_OF if "ids_" in name and "sequence" not in name]
)
def test_rows_of_mixtures_of_ids_hold_whole_examples(scheme, mixture):
    files = ["runs/eval.gin", f"mixtures/{mixture}.gin"]
    given = [f"DATASET = '{NAME}'", "MODEL_DIR = 'run'"]
    gin_files.parse(files, given, "evaluation.evaluate")
    lengths = gin.query_parameter("TASK_FEATURE_LENGTHS/macro.value")
    longest = dict.fromkeys(lengths, 0)
    for task in seqio.get_subtasks(tasks.get(f"{NAME}_{mixture}")):
        for split in task.splits if "ids_" in task.name else ():
            for batch in batches_of(task, split, seed=0):
                for side in lengths:
                    longest[side] = max(longest[side], *batch[side].row_lengths().numpy().tolist())
    # A whole window, of ids alone or with masks in their place.
    per_id = {"random": 1, "atomic": 1, "semantic": 4}[scheme]
    assert longest["inputs"] > 15 * per_id
    assert all(longest[side] <= lengths[side] for side in lengths)


@pytest.mark.slow
def test_the_audit_reads_the_ids_and_passes(scheme, data_dirs, capsys):
    arguments = ["--json", "--seeds", "1", "--data_dir", str(data_dirs[scheme])]
    assert cli.main(["audit", NAME, *arguments]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    figures = checks[f"held_out:{NAME}_retrieval:train"]["figures"]
    examples = [
        len(e["history"]) + 1
        for e in tasks.get(f"{NAME}_retrieval")
        .get_dataset(None, split="train", shuffle=False)
        .as_numpy_iterator()
    ]
    assert (figures["examples"], figures["ids"]) == (len(examples), sum(examples))


def test_ids_in_tokens(scheme):
    source = CatalogSource(NAME)
    vocabulary, catalog = tasks.features(source)["inputs"].vocabulary, source.catalog()
    texts = [
        f"Item ID: {i}, Title: x; {j}. {i}" for i, j in zip(catalog.short_id, catalog.short_id[1:])
    ]
    tokens = Ragged(*encode(texts, vocabulary))
    example, row = IdReader(vocabulary, catalog).read(tokens)
    found = sorted(zip(example.tolist(), row.tolist()))
    assert found == sorted((n, r) for n in range(len(texts)) for r in (n, n, n + 1))


@pytest.mark.usefixtures("clean_gin")
def test_atomic_ids_need_a_vocabulary_that_has_them(data_dirs):
    other = next(data_dirs["semantic"].rglob("vocabulary.model"))
    gin.bind_parameter("vocabulary.sentencepiece_file.path", str(other))
    for scheme in ("random", "semantic"):
        seqio.set_tfds_data_dir_override(str(data_dirs[scheme]))
        tasks.get(f"{NAME}_retrieval")
    seqio.set_tfds_data_dir_override(str(data_dirs["atomic"]))
    with pytest.raises(
        UserError, match=r"got \d pieces for the atomic id I\d+, expected one; bind"
    ):
        tasks.get(f"{NAME}_ut")


def test_stats_show_the_scheme_and_the_collisions(scheme, data_dirs, capsys):
    assert cli.main(["stats", NAME, "--json", "--data_dir", str(data_dirs[scheme])]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["ids"] == scheme
    assert (printed["collisions"] is None) == (scheme != "semantic")
    assert cli.main(["stats", NAME, "--data_dir", str(data_dirs[scheme])]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("ids "))
    if scheme == "semantic":
        items = printed["collisions"]["items"]
        assert f"ids semantic: {items} of 40 items share their codes" in line
