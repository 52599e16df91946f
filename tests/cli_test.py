"""The commands as a user sees them: output, JSON, errors, and the custom task of the tutorial."""

import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
import seqio

import recllm_tasks
from recllm_tasks import cli
from recllm_tasks.files import read_json

HEAVY = {"gin", "jax", "numpy", "seqio", "tensorflow"}
TUTORIAL = pathlib.Path(__file__).parents[1] / "docs/tutorials/custom_task.md"
VERY_SMALL = [
    "--gin_file=models/tiny.gin",
    "--gin_file=runs/finetune.gin",
    "--gin.network.T5Config.emb_dim=32",
    "--gin.DROPOUT_RATE=0.0",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 64}",
    "--gin.BATCH_SIZE=2",
    "--gin.TRAIN_STEPS=2",
    "--gin.EVAL_PERIOD=2",
]

pytestmark = pytest.mark.usefixtures("clean_gin")


@pytest.fixture(autouse=True)
def _forget_data_dir():
    yield
    seqio.set_tfds_data_dir_override(None)


@pytest.fixture(scope="module")
def movies(tmp_path_factory, make_movies):
    """A data folder in which `recllm prepare` put a small movielens_100k."""
    folder = tmp_path_factory.mktemp("movies")
    make_movies(folder / "raw")
    arguments = ["--data_dir", str(folder / "data"), "--raw_dir", str(folder / "raw")]
    assert cli.main(["prepare", "movielens_100k", *arguments]) == 0
    seqio.set_tfds_data_dir_override(None)
    return folder / "data"


def _fails(capsys, *arguments):
    """The error message of a command that must fail with exit code 2."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("recllm: error: ")
    assert "Traceback" not in error
    assert "In call to configurable" not in error
    return error


def test_prepare_writes_statistics_as_json(tmp_path, capsys, make_movies):
    make_movies(tmp_path / "raw")
    arguments = ["--data_dir", str(tmp_path / "data"), "--raw_dir", str(tmp_path / "raw"), "--json"]
    assert cli.main(["prepare", "movielens_100k", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["users"] == 30
    assert found["items"] == 40
    assert found["has_ratings"] is True
    assert {"interactions", "sparsity", "mean_length", "std_length", "train_windows"} <= set(found)


def test_show_prints_examples_with_token_counts(movies, capsys):
    arguments = ["show", "movielens_100k_retrieval", "--data_dir", str(movies)]
    assert cli.main([*arguments, "--json", "--num", "2", "--split", "test"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert row["inputs"].startswith("A user has watched the following movies (arranged in")
        assert row["inputs"].endswith("What would the user watch next?")
        assert re.fullmatch(r"I\d+", row["targets"])
        assert row["inputs_tokens"] > row["targets_tokens"] == 2
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "Input (" in shown
    assert "Output (2 tokens): I" in shown


def test_show_lists_what_is_prepared_and_how_to_prepare_the_rest(movies, tmp_path, capsys):
    assert cli.main(["show", "--data_dir", str(movies)]) == 0
    listed, rest = re.sub(r"\s+", " ", capsys.readouterr().out).split("not prepared in ")
    assert {"movielens_100k_ut_at", "movielens_100k_ie"} <= set(listed.split())
    assert not re.search("toys|sports|beauty", listed)
    assert rest.startswith(str(movies))
    assert {"beauty,", "sports,", "toys;"} <= set(rest.split())
    assert f"recllm prepare NAME --data_dir {movies}" in rest
    assert cli.main(["show", "--data_dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("not prepared in ")


def test_errors_say_what_is_wrong_and_how_to_fix_it(movies, tmp_path, capsys):
    data = ["--data_dir", str(movies)]
    assert "toys" in _fails(capsys, "prepare", "toyz", *data)
    assert "reviews_Toys_and_Games_5.json.gz" in _fails(capsys, "prepare", "toys", *data)
    assert "movielens_100k_mim" in _fails(capsys, "show", "movielens_100k_min", *data)
    assert "recllm prepare beauty" in _fails(capsys, "show", "beauty_retrieval", *data)
    assert "expected one of train" in _fails(
        capsys, "show", "movielens_100k_mim", "--split", "test", *data
    )
    assert "at least a model and a run" in _fails(capsys, "train", *data)
    unknown = _fails(capsys, "train", "movielens", "--out", str(tmp_path / "run"), *data)
    assert "a prepared one (movielens_100k) or one to prepare by its name (toys," in unknown
    assert "perhaps movielens_100k; or make it of your files" in unknown
    assert f"`recllm prepare movielens --data_dir {movies} --interactions FILE`" in unknown
    assert "No gin file 'models/tyni.gin'" in _fails(
        capsys, "train", "--gin_file=models/tyni.gin", *data
    )
    assert "--gin.NAME=VALUE" in _fails(capsys, "train", "--gin.STEPS", *data)
    assert "Unknown argument" in _fails(capsys, "show", "x", "--gin.A=1", *data)
    assert "No run in" in _fails(capsys, "eval", f"--gin.MODEL_DIR={tmp_path}", *data)
    assert "'no_such_module'" in _fails(capsys, "show", "--module", "no_such_module", *data)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("training.train.no_such=1", "no_such"),
        ("no_such.thing=1", "no_such"),
        ("TRAINSTEPS=2", "perhaps TRAIN_STEPS"),
        ("network.T5Config.mlp_activations=('gleu',)", "gleu"),
        ("MIXTURE_OR_TASK_NAME=movielens_100k_utat", "movielens_100k_ut"),
        ("MODEL_PARALLEL=3", "divisor of its"),
        ("BATCH_SIZE=0", "BATCH_SIZE: got 0"),
        ("BATCH_SIZE='x'", "BATCH_SIZE: got 'x'"),
        ("TRAIN_STEPS=0", "TRAIN_STEPS: got 0"),
        ("EVAL_PERIOD=0", "EVAL_PERIOD: got 0"),
        ("LEARNING_RATE=nan", "LEARNING_RATE: got 'nan'"),
        ("WARMUP_STEPS=-5", "WARMUP_STEPS: got -5"),
        ("RANDOM_SEED=-1", "RANDOM_SEED: got -1"),
        ("DROPOUT_RATE=2.0", "T5Config.dropout_rate: got 2.0"),
        ("network.T5Config.dtype='int32'", "T5Config.dtype: got 'int32'"),
        ("network.T5Config.emb_dim=0", "T5Config.emb_dim: got 0"),
        ("TASK_FEATURE_LENGTHS={'inputs': 512}", "TASK_FEATURE_LENGTHS: got {'inputs': 512}"),
        ("TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 1}", "too short: got 0 tokens"),
    ],
)
def test_wrong_settings_are_reported_in_one_line(movies, tmp_path, capsys, binding, message):
    error = _fails(
        capsys,
        "train",
        *VERY_SMALL,
        "--gin.MIXTURE_OR_TASK_NAME=movielens_100k_retrieval",
        f"--gin.MODEL_DIR={tmp_path / 'run'}",
        f"--gin.{binding}",
        "--data_dir",
        movies,
    )
    assert message in error
    assert not (tmp_path / "run").exists(), "a refused run leaves nothing behind"


@pytest.fixture
def published(movies, tmp_path):
    """A command that trains models/flan_t5_small.gin, made very small."""
    sizes = {"emb_dim": 32, "mlp_dim": 32, "num_heads": 1, "head_dim": 16}
    sizes |= {"num_encoder_layers": 1, "num_decoder_layers": 1}
    return [
        *("train", "--data_dir", str(movies)),
        *("--gin_file=models/flan_t5_small.gin", *VERY_SMALL[1:]),
        *(f"--gin.network.T5Config.{name}={value}" for name, value in sizes.items()),
        "--gin.MIXTURE_OR_TASK_NAME=movielens_100k_mlm",
        f"--gin.MODEL_DIR={tmp_path / 'run'}",
    ]


def test_a_published_model_needs_its_checkpoint(published, tmp_path, capsys):
    error = _fails(capsys, *published)
    assert "flan_t5_small/checkpoint_1198000" in error
    assert "--gin.INITIAL_CHECKPOINT=FOLDER" in error
    assert "--gin.INITIAL_CHECKPOINT=None to train from scratch" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_published_model_starts_from_scratch_where_asked(published, capsys):
    published.append("--gin.INITIAL_CHECKPOINT=None")
    assert cli.main(published) == 0
    assert cli.main([*published, "--gin.TRAIN_STEPS=3"]) == 0
    assert "resumed at step 2" in capsys.readouterr().err


def test_the_error_names_the_damaged_file(movies, tmp_path, capsys):
    folder = shutil.copytree(movies, tmp_path / "data")
    (shard,) = folder.rglob("rec_sequences-train.tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-1])
    show = ["show", "movielens_100k_bpr", "--data_dir", folder]
    error = _fails(capsys, *show)
    assert f"damaged file for '{shard}'" in error
    assert "--overwrite" in error


def test_overwrite_replaces_a_damaged_dataset(movies, tmp_path, capsys):
    folder = shutil.copytree(movies, tmp_path / "data")
    (catalog,) = folder.rglob("catalog.parquet")
    whole = catalog.read_bytes()
    catalog.write_bytes(whole[:100])
    prepare = ["prepare", "movielens_100k", "--data_dir", str(folder), "--json"]
    assert cli.main([*prepare, "--raw_dir", str(movies.parent / "raw"), "--overwrite"]) == 0
    assert catalog.read_bytes() == whole


def test_errors_of_the_system_are_reported_in_one_line(tmp_path, capsys):
    (tmp_path / "downloads").write_text("in the way")
    assert cli.main(["prepare", "movielens_100k", "--data_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("recllm: error: file for ")
    assert "downloads" in error
    assert "Not a directory" in error


def test_ctrl_c_ends_a_command_with_130(movies):
    command = [sys.executable, "-m", "recllm_tasks.cli", "show", "movielens_100k_mim", "--json"]
    shown = subprocess.Popen(
        [*command, "--num", "1000000", "--data_dir", str(movies)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell inherit an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    # A pipe of one page: the command waits for its reader, so it cannot end before the signal.
    fcntl.fcntl(shown.stdout, fcntl.F_SETPIPE_SZ, 4096)
    assert shown.stdout.readline().startswith("{")
    shown.send_signal(signal.SIGINT)
    _, error = shown.communicate(timeout=60)
    assert shown.returncode == 130
    assert "recllm: stopped" in error
    assert "Traceback" not in error


_INTERRUPTED_IN_A_FINALIZER = """
import os, signal, sys, time, types
import recllm_tasks
from recllm_tasks import cli

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

def run(args):
    Finalized()
    time.sleep(30)
    return 0

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.modules["recllm_tasks.commands.doctor"] = types.SimpleNamespace(
    SUMMARY="test", EPILOG="", add_arguments=lambda parser: None, run=run
)
sys.exit(cli.main(["doctor"]))
"""


_SWALLOWED = _INTERRUPTED_IN_A_FINALIZER.replace(
    "    Finalized()\n    time.sleep(30)\n",
    "    try:\n        Finalized.__del__(None)\n    except KeyboardInterrupt:\n        return 0\n",
)


@pytest.mark.parametrize("program", [_INTERRUPTED_IN_A_FINALIZER, _SWALLOWED])
def test_ctrl_c_is_not_lost(program):
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "\nrecllm: stopped\n"


_TRAINING_THAT_PRINTS_HOW_IT_STARTED = """
import json, os, sys, types
import recllm_tasks
from recllm_tasks import cli

def run(args):
    print(json.dumps([os.environ.get("GLIBC_TUNABLES"), os.getpid(), sys.argv[1:]]))
    return 0

cli._log_errors_only = lambda: None
sys.modules["recllm_tasks.commands.train"] = types.SimpleNamespace(
    SUMMARY="test", EPILOG="", add_arguments=cli.session.add_gin_arguments, run=run
)
sys.exit(cli.main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=0"}, "glibc.malloc.check=0"),
    ],
)
def test_training_uses_huge_pages_unless_the_user_set_the_variable(given, found):
    arguments = ["train", "--gin.MODEL_DIR='a folder; $(of spaces)'"]
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    started = subprocess.Popen(
        [sys.executable, "-c", _TRAINING_THAT_PRINTS_HOW_IT_STARTED, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**environment, **given},
    )
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 0
    assert json.loads(output) == [found, started.pid, arguments]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_program_from_standard_input_is_not_restarted():
    done = subprocess.run(
        [sys.executable, "-", "train"],
        input=_TRAINING_THAT_PRINTS_HOW_IT_STARTED,
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"},
    )
    found, _, arguments = json.loads(done.stdout)
    assert (found, arguments) == (None, ["train"])


def test_a_reader_that_goes_away_ends_the_command_quietly(movies):
    show = f"show movielens_100k_ie --json --num 50 --data_dir {movies}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m recllm_tasks.cli {show} | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 141, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_missing_setting_is_named(movies, capsys):
    error = _fails(capsys, "train", *VERY_SMALL, "--data_dir", movies)
    assert "give --gin.MIXTURE_OR_TASK_NAME=TASK" in error
    assert "give --gin.MODEL_DIR=FOLDER" in error


@pytest.mark.slow
def test_the_task_of_the_tutorial_trains_evaluates_and_shows(movies, tmp_path, monkeypatch, capsys):
    pattern = r"<!-- file: my_tasks.py -->\n```python\n(.*?)```"
    (code,) = re.findall(pattern, TUTORIAL.read_text(encoding="utf-8"), re.S)
    (tmp_path / "my_tasks.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    common = ["--module", "my_tasks", "--data_dir", str(movies)]
    assert cli.main(["show", "movielens_100k_next_title", "--json", "--num", "1", *common]) == 0
    example = json.loads(capsys.readouterr().out)
    assert example["inputs"].startswith("Someone watched: Item ID: I")
    assert example["inputs"].endswith("Name the next movie.")
    assert re.fullmatch(r"The \d+th Movie \(\d{4}\)", example["targets"])
    run = f"--gin.MODEL_DIR={tmp_path / 'run'}"
    mixture = "--gin.MIXTURE_OR_TASK_NAME=my_mixture"
    assert cli.main(["train", *VERY_SMALL, mixture, run, *common]) == 0
    capsys.readouterr()
    # With seen items left out there are fewer than twenty.
    assert cli.main(["eval", run, "--json", "--gin.SEEN=keep", *common]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["metrics"]["movielens_100k_next_title"]["invalid"] == 0
    assert read_json(tmp_path / "run" / "results.json") == results
    out = tmp_path / "out.jsonl"
    task = "--gin.MIXTURE_OR_TASK_NAME=movielens_100k_next_title"
    assert cli.main(["infer", run, task, "--out", str(out), *common]) == 0
    line = json.loads(out.read_text().splitlines()[0])
    assert re.fullmatch(r"The \d+th Movie \(\d{4}\)", line["ranked"][0]["answer"])


def test_eval_prints_the_baselines_beside_the_model(movies, tmp_path, capsys):
    run = f"--gin.MODEL_DIR={tmp_path / 'run'}"
    mixture = "--gin.MIXTURE_OR_TASK_NAME=movielens_100k_ut_at"
    assert cli.main(["train", *VERY_SMALL, mixture, run, "--data_dir", str(movies)]) == 0
    capsys.readouterr()
    assert cli.main(["eval", run, "--data_dir", str(movies)]) == 0
    shown = capsys.readouterr().out
    for words in ("movielens_100k_retrieval, test, 30 users", "popularity", "history", "auc"):
        assert words in shown
    results = read_json(tmp_path / "run" / "results.json")
    keys = {"dataset", "fingerprint", "model", "step", "seed", "split", "metrics", "baselines"}
    assert keys | {"seconds"} <= set(results)
    facts = json.loads(next(movies.rglob("recllm.json")).read_text())
    assert results["fingerprint"] == facts["fingerprint"]
    assert results["baselines"]["popularity"]["movielens_100k_retrieval"]["hr@10"] >= 0


def test_help_of_a_command_is_quick():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "recllm_tasks.cli", "train", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--gin.MIXTURE_OR_TASK_NAME=movielens_100k_ut_at" in done.stdout
    assert _imported(done.stderr).isdisjoint(HEAVY)


def test_help_lists_every_command_and_is_quick():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "recllm_tasks.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for command in cli.COMMANDS:
        assert re.search(rf"^    {command}\s+[a-z]", done.stdout, re.MULTILINE), command
    assert _imported(done.stderr).isdisjoint(HEAVY)


def _imported(import_times):
    """Names of the top-level packages in the output of `-X importtime`."""
    return {line.rpartition("|")[2].strip().split(".")[0] for line in import_times.splitlines()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("doctor --gin.A=1", "Unknown argument '--gin.A' of `recllm doctor`; see `recllm doctor -"),
        ("prepare x --kcore=3", "'--kcore' of `recllm prepare`; perhaps --k_core; see `recllm pre"),
        ("eval --data-dir d", "'--data-dir' of `recllm eval`; perhaps --data_dir; see `recllm eva"),
        ("eval r --xyz", "Unknown argument '--xyz' of `recllm eval`; see `recllm eval --help`"),
        ("trian", "Unknown command 'trian': expected perhaps train; see `recllm --help`"),
        ("xyz", "Unknown command 'xyz': expected one of prepare, "),
        ("recommend", "Folder of the run: got none, expected one; write `recllm recommend RUN …`"),
    ],
)
def test_an_argument_of_no_command_names_the_nearest(capsys, arguments, message):
    assert message in _fails(capsys, *arguments.split())


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"recllm {recllm_tasks.__version__}\n"
