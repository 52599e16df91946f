"""Launch scripts: the commands that a dry run of the T5X scripts prints, and error messages."""

import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
RUN = ("--mixture", "toys_reat", "--model=flan_t5_xl", "--bucket", "gs://bucket/")
SPACED = "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 64}"


def launch(script: str, *arguments: str, code: int = 0) -> list[list[str]] | str:
    """The commands of a dry run, as a shell parses them; the error if it fails."""
    command = ["bash", str(LAUNCH / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else [shlex.split(line) for line in done.stdout.splitlines()]


def test_a_run_trains_and_then_measures():
    train, evaluate = launch("t5x_run.sh", *RUN, "--data_dir", "data", "--dry_run", SPACED)
    bridge = ["-m", "recllm_tasks.t5x_bridge"]
    common = ["--data_dir=data", "--shared_settings", "--gin_file=models/flan_t5_xl.gin"]
    settings = ["--gin.MIXTURE_OR_TASK_NAME=toys_reat"]
    settings += ["--gin.MODEL_DIR=gs://bucket/runs/toys_reat_flan_t5_xl_seed_0"]
    finetune = ["--gin_file=runs/t5x_finetune.gin", *settings, "--gin.RANDOM_SEED=0", SPACED]
    assert train[1:] == [*bridge, "train", *common, *finetune]
    test = ["--gin_file=runs/t5x_eval.gin", *settings]
    test += ["--gin.EVAL_OUTPUT_DIR=gs://bucket/runs/toys_reat_flan_t5_xl_seed_0/test", SPACED]
    assert evaluate[1:] == [*bridge, "eval", *common, *test]


def test_a_tpu_is_created_set_up_used_and_deleted():
    tpu = (*RUN, "--zone=europe-west4-a", "--spot", "--dry_run", SPACED, "--seed", "3")
    make, _, copy, install, data, run, delete = launch("tpu_vm.sh", "all", *tpu)
    gcloud = ["gcloud", "compute", "tpus", "tpu-vm"]
    assert make[:6] == [*gcloud, "create", "recllm"]
    assert {"--zone=europe-west4-a", "--accelerator-type=v3-8", "--spot"} <= set(make)
    assert copy[:5] == [*gcloud, "scp"]
    for command in (install, data, run):
        assert command[:5] == [*gcloud, "ssh"]
        assert "--worker=all" in command
    assert "launch/install_t5x.sh tpu" in install[-1]
    assert data[-1].endswith("gcloud storage rsync -r gs://bucket/data recllm_data")
    # What a worker's shell reads: the same options, with --distributed.
    script, *options = shlex.split(run[-1].removeprefix("--command="))
    assert script == "recllm_tasks/launch/t5x_run.sh"
    on_worker, _ = launch("t5x_run.sh", *options, "--dry_run")
    assert {SPACED, "--distributed", "--gin.RANDOM_SEED=3"} <= set(on_worker)
    assert delete == [*gcloud, "delete", "recllm", "--zone=europe-west4-a", "--quiet"]


def test_after_a_preemption_the_tpu_is_created_again():
    commands = launch("tpu_vm.sh", "resume", *RUN, "--zone", "z", "--dry_run")
    steps = [c[4] if c[0] == "gcloud" else c[0] for c in commands]
    assert steps == ["describe", "delete", "create", "tar", "scp", "ssh", "ssh", "ssh"]


def test_gpus_of_one_machine_and_of_a_cluster():
    common = (*RUN, "--data_dir=data", "--dry_run")
    install, t5x, run = launch("gpu_local.sh", *common)
    assert install[0].endswith("launch/install.sh")
    assert t5x[1] == "cuda13"
    assert run[1:] == list(common)
    (job,) = launch("gpu_slurm.sbatch", *common)
    assert job[0] == "srun"
    on_node, _ = launch("t5x_run.sh", *job[3:], "--dry_run")
    assert "--distributed" in on_node


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("t5x_run.sh", RUN, "missing option: got no --data_dir"),
        ("t5x_run.sh", ("--mixture",), "--mixture VALUE"),
        ("t5x_run.sh", ("--mixtur=a",), "unknown option: got --mixtur"),
        ("tpu_vm.sh", ("all", *RUN), "missing option: got no --zone"),
        (
            "tpu_vm.sh",
            ("start", "--zone=z"),
            "expected create, install, run, resume, delete or all",
        ),
        ("gpu_slurm.sbatch", ("--dry_run",), "missing option: got no --mixture"),
        ("install_baselines.sh", ("--with-tests",), "unknown argument: got --with-tests"),
        ("install.sh", ("gpu",), "unknown argument: got gpu, expected cuda13, tpu"),
    ],
)
def test_errors_name_the_option(script, arguments, message):
    assert message in launch(script, *arguments, code=2)


def test_recboles_environment_needs_its_python_and_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON", "/no/python")
    assert "no Python 3.11 at '/no/python'" in launch("install_baselines.sh", code=2)
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("VENV", str(tmp_path))
    lock = LAUNCH / "locks" / "py311-baselines.txt"
    shutil.copy(lock, tmp_path / f"installed-{lock.name}")
    if sys.version_info[:2] == (3, 11):
        assert launch("install_baselines.sh") == []


def test_the_scripts_pass_shellcheck():
    scripts = [*sorted(LAUNCH.glob("*.sh")), *LAUNCH.glob("*.sbatch"), LAUNCH.parent / ".ci/run"]
    scripts += sorted((LAUNCH.parent / "tools").glob("*.sh"))
    program = Path(sysconfig.get_path("scripts")) / "shellcheck"
    done = subprocess.run(
        [program, "-x", *scripts], capture_output=True, text=True, cwd=LAUNCH.parent
    )
    assert done.returncode == 0, done.stdout
