"""Semantic ids: like items alike, all different, the same again; embeddings that are refused."""

import itertools
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recllm_tasks import cli
from recllm_tasks.data import id_schemes, semantic_ids
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import dataset_dir, open_dataset
from recllm_tasks.data.item_embeddings import check_embeddings, read_embeddings
from recllm_tasks.data.semantic_ids import LEVELS, Collisions, assign_codes
from recllm_tasks.errors import UserError

KINDS = ("board game", "soft doll", "racing car", "water gun")
SIZE = 64


def title(item: int) -> str:
    return f"{KINDS[item % 4]} for children, number {item // 8}"


@pytest.fixture
def shop(tmp_path, capsys):
    """shop(*arguments): (exit code, error, facts, catalog) of a prepared shop of four kinds."""
    log = [
        f"u{user},i{(user * 7 + place) % SIZE},{place}" for user in range(40) for place in range(12)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *log]))
    items = [f"i{item},{title(item).replace(',', '')}" for item in range(SIZE)]
    (tmp_path / "items.csv").write_text("\n".join(["item,title", *items]))

    def run(*arguments, folder="data"):
        files = [
            "--interactions",
            str(tmp_path / "log.csv"),
            "--items",
            str(tmp_path / "items.csv"),
        ]
        data_dir = tmp_path / folder
        code = cli.main(["prepare", "shop", *files, "--data_dir", str(data_dir), *arguments])
        error = capsys.readouterr().err
        if code:
            return code, error, None, None
        catalog = Catalog.load(dataset_dir(data_dir, "shop"))
        return code, error, open_dataset(data_dir, "shop"), catalog

    return run


def test_ids_are_distinct_and_similar_items_share_prefixes(shop):
    code, output, info, catalog = shop("--ids", "semantic")
    assert code == 0
    assert len(set(catalog.short_id)) == SIZE
    assert all(re.fullmatch(r"I\d+a\d+b\d+c\d+", short_id) for short_id in catalog.short_id)
    numbers = id_schemes.read_numbers(catalog.short_id)
    kind = np.array([" ".join(text.split()[:2]) for text in catalog.title])
    for first in np.unique(numbers[:, 0]):
        assert len(set(kind[numbers[:, 0] == first])) == 1, "a first code is of one kind"
    for texts in {tuple(row[:LEVELS]) for row in numbers.tolist()}:
        same = [
            i for i, row in zip(catalog.short_id, numbers.tolist()) if tuple(row[:LEVELS]) == texts
        ]
        assert len({short_id.rsplit("c", 1)[0] for short_id in same}) == 1
    assert info.collisions == Collisions.of(numbers)
    # Two items have each title.
    assert info.collisions.items == SIZE
    assert f"{SIZE} of {SIZE} items share their codes" in " ".join(output.split())


def test_the_last_number_is_in_the_random_order_of_the_rows(shop):
    _, _, _, catalog = shop("--ids", "semantic")
    numbers = id_schemes.read_numbers(catalog.short_id)
    seen = {}
    for *codes, last in numbers.tolist():
        assert last == seen.get(tuple(codes), 0)
        seen[tuple(codes)] = last + 1
    assert catalog.item == shop(folder="random")[3].item, "the rows are those of random ids"


def test_ids_and_fingerprints(shop):
    """The same inputs give the same ids; another scheme or seed gives another fingerprint."""
    _, _, first, catalog = shop("--ids", "semantic")
    _, _, again, same = shop("--ids", "semantic", folder="again")
    assert (catalog.short_id, first.fingerprint) == (same.short_id, again.fingerprint)
    infos = [shop(folder="random")[2], shop("--ids", "atomic", folder="atomic")[2], first]
    assert tuple(info.ids for info in infos) == ("random", "atomic", "semantic")
    assert len({info.fingerprint for info in infos}) == 3
    code, output, _, _ = shop("--ids", "semantic")
    assert code == 0
    assert "already prepared" in output
    code, error, _, _ = shop()
    assert code == 2
    assert "ids semantic" in error


def points_of(size, width, seed=0, kinds=None):
    """Points around `kinds` centres, as items of a shop are, or without centres."""
    generator = np.random.Generator(np.random.Philox(seed))
    points = generator.normal(size=[size, width])
    if kinds:
        points = generator.normal(size=[kinds, width])[np.arange(size) % kinds] + 0.1 * points
    return points.astype(np.float32)


def check_codes(points, codes):
    """Equal points have equal codes, different points have different ones, and all rows differ."""
    size = len(points)
    assert codes.shape == (size, LEVELS + 1)
    assert codes[:, :LEVELS].min() >= 0
    assert codes[:, :LEVELS].max() < id_schemes.MAX_CODES
    assert len(np.unique(codes, axis=0)) == size
    number = np.unique(points, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = {(n, *row) for n, row in zip(number.tolist(), codes[:, :LEVELS].tolist())}
    distinct = len(np.unique(number))
    assert len(pairs) == distinct, "equal points have equal codes"
    assert len({row[1:] for row in pairs}) == distinct, "different points have different codes"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 64, 1000, 3000])
@pytest.mark.parametrize("kinds", [None, 2])
def test_only_equal_points_share_their_codes(size, kinds):
    """With two kinds, k-means alone gives most items the codes of another one."""
    points = points_of(size, 4, kinds=kinds)
    check_codes(points, assign_codes(points, seed=0))
    repeated = np.concatenate([points, points[::3], np.zeros([5, 4], np.float32)])
    repeated[-1] = -0.0
    codes = assign_codes(repeated, seed=0)
    check_codes(repeated, codes)
    assert codes[-5:, -1].tolist() == [0, 1, 2, 3, 4]


def test_a_group_with_more_points_than_codes_is_spread(monkeypatch):
    """Four codes a level: 64 combinations for 60 points, most of which lie at one place."""
    monkeypatch.setattr(semantic_ids, "MAX_CODES", 4)
    points = points_of(60, 3)
    points[8:] = 10 + 1e-3 * points[8:]
    check_codes(points, assign_codes(points, seed=0))
    points = points_of(500, 3)
    codes = assign_codes(points, seed=0)
    assert len(np.unique(codes, axis=0)) == 500
    sizes = np.unique(codes[:, :LEVELS], axis=0, return_counts=True)[1]
    assert (len(sizes), sizes.max()) == (64, 8), "500 items of 64 combinations"


def test_moved_points_are_the_farthest_and_go_to_the_next_centre():
    centres = np.array([[0.0], [10], [30]], np.float32)
    points = np.array([[1.0], [4], [-3], [2], [10]], np.float32)
    codes = np.array([0, 0, 0, 0, 1])
    semantic_ids._spread(points, np.arange(5), codes, centres, 2)
    assert codes.tolist() == [0, 1, 2, 0, 1], "-3 finds 10 full"
    points, codes = np.array([[4.0], [3], [1]], np.float32), np.array([0, 0, 0])
    semantic_ids._spread(points, np.arange(3), codes, centres, 1)
    costs = np.square(points - centres.T)
    best = min(sum(costs[range(3), order]) for order in itertools.permutations(range(3)))
    assert sum(costs[range(3), codes]) == best
    assert sorted(codes.tolist()) == [0, 1, 2]


def test_the_same_points_have_the_same_codes():
    points = np.sin(np.arange(300 * 16, dtype=np.float32) ** 2).reshape(300, 16)
    codes = assign_codes(points, seed=0)
    assert np.array_equal(codes, assign_codes(points.copy(), seed=0))
    assert len(np.unique(codes, axis=0)) == 300
    equal = assign_codes(np.ones([20, 3], np.float32), seed=0)
    assert sorted(equal[:, -1].tolist()) == list(range(20))
    assert Collisions.of(equal) == Collisions(20, 1, 20)


def test_pieces_of_codes():
    assert id_schemes.code_pieces(["I1a2b3c0", "I1a255b3c700"]) == [
        " I1",
        "a2",
        "a255",
        "b3",
        "c0",
    ]


def vectors(size=SIZE, width=4):
    return np.eye(width, dtype=np.float32)[np.arange(size) % width]


def write(path, items, embeddings):
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"item": items, "embedding": list(embeddings)}), path)
    else:
        kind = [("item", "U8"), ("embedding", "f4", (embeddings.shape[1],))]
        rows = np.empty(len(items), kind)
        rows["item"], rows["embedding"] = items, embeddings
        np.save(path, rows)
    return str(path)


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_custom_embeddings(shop, tmp_path, ending):
    items = [f"i{item}" for item in range(SIZE + 3)]
    path = write(tmp_path / f"e.{ending}", items, vectors(SIZE + 3))
    found = read_embeddings(tmp_path / f"e.{ending}", ["i5", "i2"])
    np.testing.assert_array_equal(found, vectors()[[5, 2]])
    code, _, info, catalog = shop("--ids", "semantic", "--embeddings", path)
    assert code == 0
    first = id_schemes.read_numbers(catalog.short_id)[:, 0]
    kind = np.array([int(item[1:]) % 4 for item in catalog.item])
    assert all(len(set(first[kind == k])) == 1 for k in range(4))
    assert f"e.{ending}" in info.source_files
    assert info.fingerprint != shop("--ids", "semantic", folder="texts")[2].fingerprint


def broken(tmp_path, case):
    items, numbers = [f"i{item}" for item in range(SIZE)], vectors()
    if case == "nan":
        numbers[7, 1] = np.nan
    elif case == "missing":
        items, numbers = items[:-2], numbers[:-2]
    elif case == "twice":
        items[3] = "i4"
    elif case == "keyless":
        np.save(tmp_path / "e.npy", numbers)
        return str(tmp_path / "e.npy")
    elif case == "objects":
        np.save(tmp_path / "e.npy", np.array([{}], object), allow_pickle=True)
        return str(tmp_path / "e.npy")
    elif case == "cut":
        write(tmp_path / "e.npy", items, numbers)
        (tmp_path / "e.npy").write_bytes((tmp_path / "e.npy").read_bytes()[:-9])
        return str(tmp_path / "e.npy")
    elif case == "ragged":
        lists = [row.tolist()[: 3 + n % 2] for n, row in enumerate(numbers)]
        return write(tmp_path / "e.parquet", items, lists)
    elif case == "text":
        (tmp_path / "e.csv").write_text("i1,0.5")
        return str(tmp_path / "e.csv")
    elif case == "absent":
        return str(tmp_path / "nowhere.npy")
    return write(tmp_path / "e.npy", items, numbers)


@pytest.mark.parametrize(
    ("case", "got"),
    [
        ("nan", "numbers that are not finite for 1 items, such as 'i7'"),
        ("missing", f"no row for 2 of {SIZE} items, such as 'i6"),
        ("twice", "the item 'i4' more than once"),
        ("keyless", r"an array of shape \[64, 4\] and type float32"),
        ("objects", "Object arrays cannot be loaded"),
        ("cut", ".*, expected a valid .npy file"),
        ("ragged", "lists of 3, 4 numbers"),
        ("text", "a file that ends in '.csv'"),
        ("absent", "No such file"),
    ],
)
def test_embeddings_that_are_refused(tmp_path, case, got):
    path = broken(tmp_path, case)
    with pytest.raises(UserError) as error:
        read_embeddings(check_embeddings(path).path, [f"i{item}" for item in range(SIZE)])
    assert re.search(rf"embeddings for '{path}': got .*{got}", str(error.value))
    assert "correct the file, or give no embeddings" in str(error.value)


def test_embeddings_without_semantic_ids_and_ids_without_texts(shop, tmp_path):
    path = write(tmp_path / "e.npy", ["i0"], vectors(1))
    code, error, _, _ = shop("--ids", "semantic", "--embeddings", path)
    assert (code, f"no row for 63 of {SIZE} items" in error) == (2, True)
    code, error, _, _ = shop("--embeddings", path)
    assert (code, "for random ids, expected embeddings only for semantic ids" in error) == (2, True)
    code, error, _, _ = shop("--ids", "roman")
    assert (code, "expected one of random, semantic, atomic" in error) == (2, True)
    (tmp_path / "items.csv").write_text("item,title\ni0,\n")
    code, error, _, _ = shop("--ids", "semantic")
    assert code == 2
    assert "texts of 'shop': got no words for its 64 items" in error


def _later(embeddings, later, trained=None):
    codes, codebooks = semantic_ids.fit_codes(embeddings, 0)
    trained = np.ones(len(embeddings), bool) if trained is None else trained
    return codes, semantic_ids.assign_later_codes(later, codebooks, embeddings, codes, trained)


def test_later_items_get_codes_near_those_of_like_items():
    draw = np.random.Generator(np.random.Philox(5))
    centres = draw.normal(size=(6, 16))
    kinds = np.arange(300) % 6
    embeddings = (centres[kinds] + 0.05 * draw.normal(size=(300, 16))).astype(np.float32)
    later = (centres[np.arange(60) % 6] + 0.05 * draw.normal(size=(60, 16))).astype(np.float32)
    codes, found = _later(embeddings, later)
    together = np.concatenate([codes, found])
    assert len(np.unique(together, axis=0)) == 360
    assert (found[:, -1] == 0).all()
    for column, of_all in zip(found.T, codes.T):
        assert set(column) <= set(of_all)
    for kind in range(6):
        assert set(found[kind::6, 0]) <= set(codes[kinds == kind, 0])


def test_later_items_of_equal_content_get_the_next_number_that_is_known():
    draw = np.random.Generator(np.random.Philox(6))
    embeddings = draw.normal(size=(40, 8)).astype(np.float32)
    embeddings[1:4] = embeddings[0]  # numbers 0 to 3
    codes, found = _later(embeddings, embeddings[[7, 0, 7]])
    assert found[0].tolist() == [*codes[7, :3], 1]
    assert found[2].tolist() == [*codes[7, :3], 2]
    assert found[1].tolist()[:3] != codes[0, :3].tolist()
    assert found[1, 3] == 0
    # A number that only an untrained item has is not known.
    trained = np.ones(40, bool)
    trained[1:4] = False
    codes, found = _later(embeddings, embeddings[[7]], trained)
    assert found[0, 3] == 0
    assert found[0].tolist()[:3] not in codes[:, :3].tolist()


def test_no_code_is_left_for_a_later_item():
    embeddings = np.eye(2, dtype=np.float32)[[0, 0]]
    codes, found = _later(embeddings, np.eye(2, dtype=np.float32)[[1]])
    assert found is None
    assert len(codes) == 2
