"""RecBole's side of bench_compact.py, a program of RecBole's environment.

    python -I recbole_worker.py FOLDER SETTINGS

FOLDER has log/log.inter, the whole log. RecBole splits it and evaluates as it does by itself: leave
one out, all items ranked. The worker reads a request a line, {"train": batches} or
{"evaluate": true}, and answers each in a line of JSON, with the seconds that it took.
"""

import json
import sys
import time

import torch

(folder, settings), sys.argv = sys.argv[1:], sys.argv[:1]  # RecBole's Config reads it too.
sys.stdout, answers = sys.stderr, sys.stdout

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

# RecBole's sine.py turns it on at import, which nearly doubles the time of a step.
torch.autograd.set_detect_anomaly(False)


def main():
    given = json.loads(settings)
    torch.set_num_threads(given.pop("threads"))
    config = Config(
        model="SASRec",
        dataset="log",
        config_dict={
            "data_path": folder,
            "checkpoint_dir": folder,
            "gpu_id": "",
            "show_progress": False,
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "order": "TO",
                "group_by": "user",
                "mode": "full",
            },
            "metrics": ["Hit", "NDCG"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "eval_batch_size": 4096,
            **given,
        },
    )
    init_seed(config["seed"], True)
    train_data, _, test_data = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, train_data.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    say({"parameters": sum(p.numel() for p in model.parameters())})
    batches = endless(train_data)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        if "train" in request:
            number = train(model, trainer.optimizer, batches, request["train"])
        else:
            trainer.evaluate(test_data, load_best_model=False, show_progress=False)
            number = len(test_data.dataset)
        say({"number": number, "seconds": time.perf_counter() - start})


def say(answer):
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def endless(loader):
    while True:
        yield from loader


def train(model, optimizer, batches, number):
    """As RecBole's trainer does, on `number` batches; the number of examples."""
    model.train()
    examples = 0
    for _ in range(number):
        interaction = next(batches)
        optimizer.zero_grad()
        loss = model.calculate_loss(interaction)
        loss.backward()
        optimizer.step()
        loss.item()
        examples += len(interaction)
    return examples


if __name__ == "__main__":
    main()
