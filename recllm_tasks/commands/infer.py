"""`recllm infer`: a trained run's recommendations in a file."""

from recllm_tasks.commands import setup
from recllm_tasks.progress import console


def run(args) -> int:
    setup.use_data_dir(args)
    setup.register_tasks(args)
    args.gin_file = args.gin_file or ["runs/infer.gin"]
    infer = setup.configured(args, "inference.infer")
    lines = infer(output=args.out)
    console.print(f"{lines:,} lines written to {args.out}")
    return 0
