"""RecBole's side of bench_compact.py, a program of RecBole's environment.

    python -I recbole_worker.py PROCESS FOLDER

PROCESS is recllm_tasks/baselines/recbole/process, and FOLDER a job that recbole/exported.py wrote.
It reads a request a line, {"train": batches} or {"evaluate": true}, and answers each in a line of
JSON, with the seconds that it took.
"""

import importlib.util
import json
import pathlib
import sys
import time

process, folder = (pathlib.Path(path).resolve() for path in sys.argv[1:])
sys.argv = sys.argv[:1]  # RecBole's Config reads it too.
sys.path.insert(0, str(process))
sys.stdout, answers = sys.stderr, sys.stdout

import scoring  # noqa: E402
import torch  # noqa: E402

spec = importlib.util.spec_from_file_location("recbole_process", process / "__main__.py")
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)


def main():
    job = program.Job(**json.loads((folder / "job.json").read_text()))
    torch.set_num_threads(job.threads)
    config, dataset, loader = program.make_dataset(folder, job)
    model = program.make_model(config, dataset)
    users = scoring.Users(folder / "users.parquet", dataset, job)
    optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])
    say({"parameters": sum(p.numel() for p in model.parameters()), "examples": len(dataset)})
    batches = endless(loader)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        if "train" in request:
            number = train(model, optimizer, batches, request["train"])
        else:
            number = evaluate(model, users, job)
        say({"number": number, "seconds": time.perf_counter() - start})


def say(answer):
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def endless(loader):
    while True:
        yield from loader


def train(model, optimizer, batches, number):
    """As stages.py does, on `number` batches; the number of examples."""
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


def evaluate(model, users, job):
    """The rank of the target and the 20 best items of every test user; the number of users."""
    model.eval()
    for block in users.blocks():
        scores_BxN = scoring.scores_of_block(model, users, block).float()
        scoring.without_seen(scores_BxN, users, block)
        scoring.ranks_of_targets(scores_BxN, users.target_U[block])
        torch.topk(scores_BxN, scoring.LISTED)
    return len(users)


if __name__ == "__main__":
    main()
