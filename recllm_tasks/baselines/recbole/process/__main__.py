"""Trains a RecBole model and scores users with it, in RecBole's environment.

    python -I process FOLDER

FOLDER holds job.json, the atomic files and the users (exported.py). This program adds a state after
every epoch, from which it resumes, best.pt, and finally predictions.parquet and report.json. It
reports progress on standard output, one JSON object per line.

It imports nothing from recllm_tasks, which RecBole's environment lacks. RecBole provides the
models, losses, augmented training examples and negatives. The loop, the seeds, the inputs of
validation and test, and the choice of the best epoch are ours; RecBole's splits and metrics are not
used.
"""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import resource
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from networks import BPRMLP, SASRecBCE
from recbole import __version__ as recbole_version
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataloader import TrainDataLoader
from recbole.sampler import RepeatableSampler, Sampler
from recbole.utils import ModelType, init_seed
from scoring import Users, histories_of, predict, validate
from stages import Training, save, say, write_atomically

# RecBole's sine.py turns it on at import, which nearly doubles the time of a step.
torch.autograd.set_detect_anomaly(False)

OWN = {"SASRecBCE": SASRecBCE, "BPRMLP": BPRMLP}


@dataclasses.dataclass
class Job:
    """The content of job.json; see models.py and training.py."""

    network: str
    config: dict
    kinds: list
    exclude_seen: bool
    seed: int
    threads: int
    epochs: int
    minutes: float
    patience: int
    num_items: int
    pretrain: dict | None = None
    parent: int | None = None


def make_dataset(folder, job):
    """(config, dataset, loader of training batches): everything in the log is training."""
    config = Config(
        model=OWN.get(job.network, job.network),
        dataset="log",
        config_dict={
            "data_path": str(folder / "data"),
            "checkpoint_dir": str(folder),
            "seed": job.seed,
            "reproducibility": True,
            "gpu_id": "",  # RecBole would use a GPU by default.
            "show_progress": False,
            "worker": 0,
            **job.config,
        },
    )
    init_seed(job.seed, True)
    dataset = create_dataset(config)
    dataset._change_feat_format()  # As `build` does before it splits; augments sequences.
    sampler = None
    if config["train_neg_sample_args"]["distribution"] != "none":
        sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        sampler = (
            RepeatableSampler(["train"], dataset, "uniform")
            if sequential
            else Sampler(["train"], [dataset], "uniform")
        ).set_phase("train")
    # Needed before the model: transforms put names of fields into the config.
    return config, dataset, TrainDataLoader(config, dataset, sampler, shuffle=True)


def make_model(config, dataset):
    init_seed(config["seed"], True)
    network = OWN.get(config["model"], config.model_class)
    return network(config, dataset).to(config["device"])


def pretrain(folder, job, config, dataset, loader):
    """Runs S3-Rec's first stage; returns its curve. The model then loads `pre_model_path`."""
    config["train_stage"] = "pretrain"
    model = make_model(config, dataset)
    seconds_at_most = 60 * job.minutes * job.pretrain["share"]
    curve = Training(folder, job, 0).run(
        model, loader, job.pretrain["epochs"], seconds_at_most, None
    )
    save(folder / "pretrained.pt", {"state_dict": model.state_dict()})
    config["train_stage"] = "finetune"
    config["pre_model_path"] = str(folder / "pretrained.pt")
    return curve


def train_and_predict(folder, job):
    """Runs the job; returns the content of report.json."""
    config, dataset, loader = make_dataset(folder, job)
    pretraining = pretrain(folder, job, config, dataset, loader) if job.pretrain else []
    spent = pretraining[-1]["seconds"] if pretraining else 0.0
    model = make_model(config, dataset)
    validation = Users(folder / "validation.parquet", dataset, job)
    users = Users(folder / "users.parquet", dataset, job)

    def score(model):
        with histories_of(model, validation):
            return validate(model, dataset, validation, job)

    left = 60 * job.minutes - spent
    curve = Training(folder, job, 1).run(model, loader, job.epochs, left, score)
    model.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
    say(predicting=len(users))
    with histories_of(model, users):
        columns, seconds = predict(model, dataset, users, job)
    write_atomically(
        folder / "predictions.parquet", lambda path: pq.write_table(pa.table(columns), path)
    )
    return {
        "versions": {"recbole": recbole_version, "torch": torch.__version__},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "curve": curve,
        "pretraining": pretraining,
        "fit_seconds": spent + curve[-1]["seconds"],
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def main(folder):
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit("another process is training in this folder")
        job = Job(**json.loads((folder / "job.json").read_text()))
        torch.set_num_threads(job.threads)
        report = train_and_predict(folder, job)
        write_atomically(folder / "report.json", lambda path: path.write_text(json.dumps(report)))


def peak_memory_bytes():
    """Of this process since its start; Linux's ru_maxrss starts from its parent's."""
    with contextlib.suppress(OSError), open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    arguments, sys.argv = sys.argv, sys.argv[:1]  # RecBole's Config reads sys.argv too.
    main(pathlib.Path(arguments[1]).resolve())
