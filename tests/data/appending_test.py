"""New events join a dataset, which becomes what all files together would have made."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from recllm_tasks.data.appending import LOG
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import dataset_dir, open_dataset
from recllm_tasks.data.formats import Reading
from recllm_tasks.data.prepare import prepare
from recllm_tasks.data.specs import custom_spec
from recllm_tasks.errors import UserError

NAME = "corner_shop"
DAY = 86_400


@pytest.fixture(scope="module")
def events():
    """(user, item, day, rating) by day: items and users appear over time; some events repeat."""
    rng = np.random.Generator(np.random.Philox(7))
    rows = []
    for day in range(60):
        for _ in range(16):
            user, item = rng.integers(0, 12 + day // 3), rng.integers(0, 14 + day // 2)
            rows.append((f"u{user}", f"i{item:02}", day, int(rng.integers(1, 6))))
    return rows


def write(path, rows, times=True):
    columns = ["user_id", "item_id", *(["timestamp"] if times else []), "rating"]
    lines = [",".join(columns)]
    for user, item, day, rating in rows:
        fields = [user, item, *([str(day * DAY)] if times else []), str(rating)]
        lines.append(",".join(fields))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def items_file(path, numbers):
    path.write_text(
        "item_id,title\n" + "".join(f"i{n:02},soap number {n} of kind {n % 5}\n" for n in numbers)
    )
    return str(path)


def spec(*files, items=(), **reading):
    return custom_spec(NAME, files, items, noun="soaps", verb="bought", **reading)


def content(data_dir):
    """Every record by split and user, with raw ids and ratings; train counts by raw id."""
    folder = dataset_dir(data_dir, NAME)
    builder, catalog = tfds.builder_from_directory(folder), Catalog.load(folder)
    records = {}
    for split in ("train", "validation", "test"):
        for record in tfds.as_numpy(builder.as_dataset(split)):
            items = [catalog.item[row] for row in record["items"]]
            records[split, record["user"]] = (items, record["ratings"].tolist())
    counts = {i: int(n) for i, n in zip(catalog.item, catalog.train_count) if n}
    return records, counts


def ids(data_dir):
    catalog = Catalog.load(dataset_dir(data_dir, NAME))
    return list(zip(catalog.item, catalog.short_id, catalog.title))


@pytest.mark.parametrize(
    ("options", "later"),
    [
        ({}, {}),
        ({"repeats": "keep", "ties": "shuffled", "ids": "atomic"}, {}),
        ({"split": "time", "validation_share": 0.2, "test_share": 0.2}, {}),
        (
            {"split": "time", "validation_from": 30 * DAY, "test_from": 36 * DAY},
            {"split": "time", "validation_from": 44 * DAY, "test_from": 52 * DAY},
        ),
    ],
)
def test_records_are_those_of_all_files_together(tmp_path, events, options, later):
    options = {"k_core": 3, "candidates": 10, **options}
    # The exports overlap, and the third one brings nothing new.
    parts = [events[:600], events[500:800], events[700:800], events[800:]]
    files = [write(tmp_path / f"{n}.csv", part) for n, part in enumerate(parts)]
    whole = write(tmp_path / "whole.csv", events)
    prepare(spec(whole), tmp_path / "whole", **{**options, **later})
    prepare(spec(files[0]), tmp_path / "grown", **options)
    known, fingerprints = ids(tmp_path / "grown"), []
    for number, file in enumerate(files[1:]):
        said = []
        of_all = {"k_core": 3} if number == 2 else {}  # the dataset's own may be repeated
        cuts = later if number == 2 else {}
        prepare(spec(file), tmp_path / "grown", append=True, progress=said.append, **of_all, **cuts)
        assert any("has all these events already" in line for line in said) == (number == 1)
        now = ids(tmp_path / "grown")
        assert now[: len(known)] == known
        known = now
        fingerprints.append(open_dataset(tmp_path / "grown", NAME).fingerprint)
    assert content(tmp_path / "grown") == content(tmp_path / "whole")
    info, of_whole = (open_dataset(tmp_path / name, NAME) for name in ("grown", "whole"))
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert len(info.appended) == 2
    assert info.appended[-1] < info.statistics.items
    assert (info.noun, info.verb_past) == ("soaps", "bought")
    assert list(info.source_files) == ["0.csv", "1.csv", "3.csv"]
    for fact in ("users", "interactions", "train_windows"):
        assert getattr(info.statistics, fact) == getattr(of_whole.statistics, fact)
    for fact in ("validation_from", "test_from", "tie_counts", "repeats_kept", "has_ratings"):
        assert getattr(info, fact) == getattr(of_whole, fact)


def test_known_items_keep_codes_and_texts(tmp_path, events):
    options = {"k_core": 3, "candidates": 10, "ids": "semantic"}
    first = items_file(tmp_path / "items.csv", range(27))
    prepare(
        spec(write(tmp_path / "0.csv", events[:400]), items=[first]), tmp_path / "data", **options
    )
    known = ids(tmp_path / "data")
    for number, part in enumerate((events[400:700], events[700:])):
        # Without some known items, and with another title of one.
        later = items_file(tmp_path / f"items_{number}.csv", range(5 - number, 50))
        with open(later) as f:
            changed = f.read().replace("soap number 9 ", "another ")
        with open(later, "w") as f:
            f.write(changed)
        prepare(
            spec(write(tmp_path / f"{number + 1}.csv", part), items=[later]),
            tmp_path / "data",
            append=True,
        )
        now = ids(tmp_path / "data")
        assert now[: len(known)] == known
        assert len(now) > len(known)
        assert all(title for _, _, title in now)
        known = now
    assert len({short_id for _, short_id, _ in known}) == len(known)


def test_items_without_texts_get_them(tmp_path, events):
    options = {"k_core": 3, "candidates": 10}
    prepare(spec(write(tmp_path / "0.csv", events[:600])), tmp_path / "data", **options)
    assert not any(title for _, _, title in ids(tmp_path / "data"))
    # No event is new, but the texts are.
    same, items = write(tmp_path / "1.csv", events[:600]), items_file(tmp_path / "i.csv", range(60))
    prepare(spec(same, items=[items]), tmp_path / "data", append=True)
    assert all(title for _, _, title in ids(tmp_path / "data"))


def test_bad_lines_and_a_changed_item_file_add_up(tmp_path, events):
    first = write(tmp_path / "0.csv", events[:600])
    second = write(tmp_path / "1.csv", events[600:])
    for file in (first, second):
        with open(file, "a") as f:
            f.write("u1,i01,never,3\n")
    options = {"k_core": 3, "candidates": 10, "bad_records": "quarantine"}
    prepare(spec(first), tmp_path / "data", **options)
    prepare(spec(second), tmp_path / "data", append=True, bad_records="quarantine")
    folder = dataset_dir(tmp_path / "data", NAME)
    lines = (folder / "bad_records.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"].rpartition("/")[2] for line in lines] == ["0.csv", "1.csv"]
    assert open_dataset(tmp_path / "data", NAME).bad_records == 2


def test_logs_in_the_order_of_lines(tmp_path, events):
    def by_line(*files):
        return spec(*files, reading=Reading(order="file"))

    parts = [
        write(tmp_path / f"{n}.csv", part, times=False)
        for n, part in enumerate((events[:500], events[500:]))
    ]
    options = {"k_core": 3, "candidates": 10}
    prepare(by_line(*parts), tmp_path / "whole", **options)
    prepare(by_line(parts[0]), tmp_path / "grown", **options)
    timed = write(tmp_path / "timed.csv", events[500:])
    with pytest.raises(UserError, match=r"got times, expected the order of lines.*--order file"):
        prepare(spec(timed), tmp_path / "grown", append=True)
    prepare(by_line(parts[1]), tmp_path / "grown", append=True)
    assert content(tmp_path / "grown") == content(tmp_path / "whole")


def test_what_cannot_be_appended_to_is_refused(tmp_path, events):
    first = write(tmp_path / "0.csv", events[:600])
    second = write(tmp_path / "1.csv", events[600:])
    data_dir, options = tmp_path / "data", {"k_core": 3, "candidates": 10}

    def append(**given):
        prepare(spec(second), data_dir, append=True, **given)

    with pytest.raises(UserError, match=r"got none in .*leave --append out"):
        append()
    prepare(spec(first), data_dir, **options)
    before = open_dataset(data_dir, NAME)
    with pytest.raises(UserError, match=r"k_core .* got 4 with --append.*own, 3; leave --k_core"):
        append(k_core=4)
    with pytest.raises(UserError, match=r"validation_share .*only with a split by time"):
        append(validation_share=0.1, test_share=0.1)
    with pytest.raises(UserError, match=r"overwrite too.*leave one of them out"):
        append(overwrite=True)
    with pytest.raises(UserError, match=r"give --interactions"):
        prepare("gift_cards", data_dir, append=True)
    with pytest.raises(UserError, match=r"got times, expected|order of lines"):
        prepare(spec(second, reading=Reading(order="file")), data_dir, append=True)
    assert open_dataset(data_dir, NAME) == before
    log = dataset_dir(data_dir, NAME) / LOG
    damaged = bytearray(log.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    log.write_bytes(damaged)
    with pytest.raises(UserError, match=rf"Damaged file .*{LOG}"):
        append()
    log.unlink()
    with pytest.raises(UserError, match=rf"got no {LOG}"):
        append()
    prepare(spec(first), data_dir, overwrite=True, withhold_items=0.1, **options)
    with pytest.raises(UserError, match=r"withheld items"):
        append()
