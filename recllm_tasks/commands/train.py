"""`recllm train`: fine-tunes a model, or goes on where a stopped run was."""

from recllm_tasks.commands import setup
from recllm_tasks.progress import console


def run(args) -> int:
    setup.use_data_dir(args)
    setup.register_tasks(args)
    train = setup.configured(args, "training.train")
    folder = train()
    console.print(f"trained; the checkpoint to use is in {folder}")
    return 0
