"""A custom dataset: from a CSV to tasks in every command and process, without code."""

import csv
import gzip
import json
import subprocess
import sys

import pytest
import seqio
import tensorflow_datasets as tfds

from recllm_tasks import cli, mixtures
from recllm_tasks.data.dataset_info import open_dataset
from recllm_tasks.data.formats import Reading
from recllm_tasks.data.prepare import prepare
from recllm_tasks.data.specs import custom_spec
from recllm_tasks.errors import UserError
from recllm_tasks.prompts.source import SequenceSource

KINDS = ("retrieval", "ranking", "rating", "mim", "mlm", "bpr", "ie")
COLUMNS = "user=customer,item=sku,rating=stars,time=bought on,title=name,categories=shelf"


@pytest.fixture(autouse=True)
def _forget_data_dir():
    yield
    seqio.set_tfds_data_dir_override(None)


def write_shop(folder, rated=True):
    """A CSV of 40 customers and 30 products in two files, and the products."""
    rows = [
        [
            f"c{user}",
            f"p{(user * 3 + place) % 30}",
            1 + (user + place) % 5,
            f"2024-01-{place + 1:02}",
        ]
        for user in range(40)
        for place in range(5 + user % 20)
    ]
    for name, part in (("part-1.csv", rows[:200]), ("part-2.csv.gz", rows[200:])):
        header = ["customer", "sku", "stars", "bought on"]
        lines = [",".join(map(str, row if rated else [*row[:2], "", row[3]])) for row in part]
        raw = "\n".join([",".join(header), *lines]).encode() + b"\n"
        (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    with (folder / "products.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "name", "shelf"])
        writer.writerows(
            [f"p{item}", f'The "{item}th" product, nice', "Toys"] for item in range(30)
        )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A data folder in which `recllm prepare mystore` put the shop."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    command = ["prepare", "mystore", "--interactions", str(folder / "part-*"), "--items"]
    command += [str(folder / "products.csv"), "--columns", COLUMNS]
    command += ["--noun", "products", "--verb", "purchased", "--data_dir", str(folder / "data")]
    assert cli.main(command) == 0
    seqio.set_tfds_data_dir_override(None)
    return folder / "data"


def test_the_facts_are_stored(shop):
    info = open_dataset(shop, "mystore")
    assert (info.noun, info.verb, info.verb_past) == ("products", "purchase", "purchased")
    assert info.has_ratings
    assert list(info.source_files) == ["part-1.csv", "part-2.csv.gz", "products.csv"]
    assert (info.statistics.users, info.statistics.items) == (40, 30)


def test_the_commands_know_its_tasks(shop, capsys):
    assert cli.main(["show", "mystore_retrieval", "--data_dir", str(shop), "--json"]) == 0
    example = json.loads(capsys.readouterr().out.splitlines()[0])
    assert example["inputs"].startswith("A user has purchased the following products (arranged")
    assert 'th" product, nice;' in example["inputs"]
    assert example["inputs"].endswith("What would the user purchase next?")
    assert cli.main(["show", "--data_dir", str(shop)]) == 0
    shown = capsys.readouterr().out
    for name in (*KINDS, *mixtures.TASKS_OF):
        assert f"mystore_{name}" in shown


@pytest.mark.slow
def test_three_lines_of_python_in_another_process(shop):
    program = (
        "import seqio\n"
        "from recllm_tasks import mixtures\n"
        f"mixtures.register_stored({str(shop)!r})\n"
        "found = seqio.get_mixture_or_task('mystore_ut_at')\n"
        "lengths = {'inputs': 512, 'targets': 64}\n"
        "print(len(list(found.get_dataset(lengths, 'train', num_epochs=1).take(5))))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "5", result.stderr


@pytest.mark.usefixtures("clean_gin")
def test_gin_can_name_it(shop):
    import gin

    gin.parse_config(f"mixtures.stored.name = 'mystore_reat'\nmixtures.stored.data_dir = '{shop}'")
    assert mixtures.stored().name == "mystore_reat"
    with pytest.raises(UserError, match="Unknown task or mixture 'mystore_x'"):
        mixtures.stored("mystore_x", str(shop))


@pytest.mark.parametrize("kind", [*KINDS, *mixtures.TASKS_OF])
def test_every_task_and_mixture_has_examples(shop, kind):
    assert mixtures.register_stored(shop) == ["mystore"]
    found = seqio.get_mixture_or_task(f"mystore_{kind}")
    dataset = found.get_dataset({"inputs": 512, "targets": 64}, "train", num_epochs=1)
    assert len(list(dataset.take(3))) == 3


def test_tfds_loads_it_by_name(shop):
    assert len(list(tfds.load("rec_sequences/mystore:1.0.0", split="test", data_dir=shop))) == 40
    assert len(list(tfds.load("rec_sequences/mystore", split="test", data_dir=shop))) == 40


def test_files_in_another_order_are_another_dataset(shop, tmp_path):
    folder = shop.parent
    files = [str(folder / "part-2.csv.gz"), str(folder / "part-1.csv")]
    items = [str(folder / "products.csv")]
    spec = custom_spec("mystore", files, items, columns=COLUMNS)
    with pytest.raises(UserError, match=r"with other options.*--overwrite"):
        prepare(spec, shop)
    again = custom_spec("mystore", files[::-1], items, columns=COLUMNS)
    assert prepare(again, shop) == open_dataset(shop, "mystore").statistics


def test_without_items_and_ratings(tmp_path):
    write_shop(tmp_path, rated=False)
    spec = custom_spec("bare_shop", [str(tmp_path / "part-*")], columns=COLUMNS.split(",title")[0])
    prepare(spec, tmp_path / "data")
    assert mixtures.register_stored(tmp_path / "data") == ["bare_shop"]
    assert not open_dataset(tmp_path / "data", "bare_shop").has_ratings
    assert set(SequenceSource("bare_shop").catalog().title) == {""}
    with pytest.raises(UserError, match="Rating is not offered for dataset 'bare_shop'"):
        SequenceSource("bare_shop", needs_ratings=True).check()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("My store", {}, "lower-case letters"),
        ("toys", {}, "which is a published dataset"),
        ("shop", {"verb": "rented"}, "--verb rent,rented"),
        ("shop", {"noun": " "}, "expected a noun"),
        ("shop", {"columns": "usr=a", "format": "recbole"}, "did you mean 'user'"),
        ("shop", {"reading": Reading(time_unit="days")}, "got 'days', expected one of seconds"),
    ],
)
def test_wrong_specifications(name, options, message):
    with pytest.raises(UserError, match=message):
        custom_spec(name, ["x.csv"], **options)


def test_both_forms_of_a_verb():
    spec = custom_spec("shop", ["x.csv"], verb="rent, rented")
    assert (spec.verb, spec.verb_past) == ("rent", "rented")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shop", "--interactions", "no/such-*.csv"], "got no file no/such-*.csv"),
        (["shop", "--columns", "user=a"], "got no --interactions beside"),
        (["shop"], "or give the files of a custom dataset with --interactions"),
        (["shop", "--interactions", "x.csv", "--ties", "random"], "expected one of published"),
        (["shop", "--interactions", "x.csv", "--window", "0"], "window for 'shop': got 0"),
        (["shop", "--interactions", "x.csv", "--candidates", "1"], "candidates for 'shop': got 1"),
        (["shop", "--interactions", "x.csv", "--like_threshold", "nan"], "like_threshold for"),
        (["shop", "--interactions", "x.csv", "--bad_records", "skip"], "error, quarantine"),
    ],
)
def test_wrong_arguments(tmp_path, capsys, arguments, message):
    assert cli.main(["prepare", *arguments, "--data_dir", str(tmp_path / "data")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("recllm: error: ")
