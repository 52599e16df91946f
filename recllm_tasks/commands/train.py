"""`recllm train`: fine-tunes a model, or resumes a stopped run."""

import argparse
import pathlib
import shlex

from recllm_tasks.commands import session
from recllm_tasks.errors import UserError
from recllm_tasks.progress import console

SUMMARY = "train a model on a dataset, or on a task or mixture"
EPILOG = (
    """\
examples:
  recllm train mystore --data_dir ~/recllm_data --out /tmp/run
  recllm train mystore --data_dir ~/recllm_data --out /tmp/run --gin.EPOCHS=5
  recllm train --gin_file=models/tiny.gin --gin_file=runs/finetune.gin \\
    --gin.MIXTURE_OR_TASK_NAME=movielens_100k_ut_at --gin.MODEL_DIR=/tmp/run \\
    --data_dir ~/recllm_data
  recllm train mystore --from google/flan-t5-base --out /tmp/flan
  recllm train mystore --from /tmp/run --out /tmp/next_run
  The same command resumes a stopped run.

with a dataset:
  Model, mixture and schedule are those that measured best for a dataset of its kind: sequences of
  ids, learned from scratch, with ratings if the catalog is small. They are printed as gin before
  training starts, with what the dataset requires to be different. Your --gin_file and
  --gin.NAME=VALUE are read after them. A model file other than models/ids.gin gets the paper's
  prompts (mixtures/ut_at.gin, without ratings mixtures/reat.gin).

with --from RUN:
  All settings are those of the run, and training starts from its best parameters; new items start
  from the mean of all. The run itself stays as it is. --gin.EPOCHS=5 or --gin.LEARNING_RATE=0.001
  and the like change a setting.

with --from MODEL:
  Sizes and vocabulary are the checkpoint's; prompts, steps and batch are the paper's; the batch and
  the recomputing of layers (remat) are chosen for the memory of the devices; activations are
  bfloat16 on a GPU or TPU. A model of the Hub needs `pip install 'recllm_tasks[hub]'`; it goes to
  the cache of Hugging Face ($HF_HOME), and run.json records its commit, with which the run is
  resumed. Without this option nothing is ever fetched.

without:
  Give a model, a run, and a task or mixture.

"""
    + session.GIN_HELP
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset",
        nargs="?",
        metavar="DATASET",
        help="a prepared dataset, for which settings are chosen; without it, they are all in gin",
    )
    parser.add_argument(
        "--out", metavar="RUN", help="folder of the run; the same as --gin.MODEL_DIR=RUN"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="start from a T5 1.1 or FLAN-T5: NAME or NAME@REVISION of the Hugging Face Hub, which "
        "is fetched, or a folder with config.json, safetensors and spiece.model; or go on from a "
        "run on the same dataset, after `prepare --append`",
    )
    session.add_gin_arguments(parser)
    session.add_p5_argument(parser)
    session.add_data_arguments(parser)


def run(args) -> int:
    session.use_data_dir(args)
    session.register_tasks(args)
    session.bind_model_dir(args, args.out, "--out")
    if args.start is not None and args.dataset is None:
        raise UserError(
            f"--from: got '{args.start}' without a dataset, expected one; give it: `recllm train "
            "DATASET --from MODEL --out RUN`"
        )
    chosen = "" if args.dataset is None else _choose(args)
    train = session.configured(args, "training.train", chosen)
    folder = train()
    console.print(f"trained; the checkpoint to use is in {folder}", markup=False, soft_wrap=True)
    console.print(_next_commands(args, folder.parent), markup=False, soft_wrap=True)
    return 0


def _choose(args) -> str:
    """The settings for the dataset, as gin; they are printed."""
    from recllm_tasks import gin_files
    from recllm_tasks.engine import recipe

    if not session.has_model_dir(args):
        raise UserError(
            f"Folder of the run for '{args.dataset}': got none, expected where to write it; give "
            "--out RUN"
        )
    session.dataset_info(args.dataset)
    models = [file for file in args.gin_file if "MODEL_NAME" in gin_files.values_in(file)]
    args.gin_file = [file for file in args.gin_file if file not in models]
    facts = recipe.facts_of(args.dataset)
    if args.start is None:
        found = recipe.choose(facts, *models[-1:])
    else:
        found = _from_checkpoint(args, models, facts.has_ratings)
    if not _is_run(args.start):
        # After the files, each of which asks for it.
        args.bindings.insert(0, f"DATASET = {args.dataset!r}")
    console.print(f"{args.dataset}: {facts}", markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    given = [*(f"include {file!r}" for file in args.gin_file), *args.bindings]
    settings = "\n".join(f"  {line}" for line in [*found.text.splitlines(), *given])
    console.print(f"settings, as a gin file:\n{settings}", markup=False, soft_wrap=True)
    return found.text


def _is_run(start: str | None) -> bool:
    """Whether --from is the folder of a run of ours."""
    from recllm_tasks.runs.run_folder import FILE_NAME

    return start is not None and pathlib.Path(start, FILE_NAME).expanduser().exists()


def _from_checkpoint(args, models: list[str], has_ratings: bool):
    """The settings for --from, whose model is fetched unless it is here."""
    from recllm_tasks.engine import recipe
    from recllm_tasks.models import hub
    from recllm_tasks.runs.run_folder import FILE_NAME, Run

    others = [f"--gin_file={file}" for file in models]
    others += [
        "--gin.INITIAL_CHECKPOINT"
        for text in args.bindings
        if text.startswith("INITIAL_CHECKPOINT")
    ]
    if others:
        raise UserError(
            f"--from: got '{args.start}' and {others[0]}, expected one of them; leave one out"
        )
    if _is_run(args.start):
        return recipe.continued(pathlib.Path(args.start), args.dataset)
    folder = session.model_dir(args)
    resumed = Run.load(folder) if pathlib.Path(folder, FILE_NAME).exists() else None
    start = recipe.pretrained(args.start, resumed and resumed.initial_checkpoint)
    where = start.vocabulary.parent
    if start.checkpoint.startswith(hub.SCHEME):
        console.print(f"{start.checkpoint} is in {where}", markup=False, soft_wrap=True)
    return recipe.fine_tuned(start, has_ratings, recipe.this_machine())


def _next_commands(args, model_dir: pathlib.Path) -> str:
    """Commands that use the run; `recommend` with the two most frequent items as a history."""
    from recllm_tasks import tasks
    from recllm_tasks.prompts.source import CatalogSource
    from recllm_tasks.runs.run_folder import Run

    run = shlex.quote(str(model_dir))
    data = f" --data_dir {shlex.quote(args.data_dir)}" if args.data_dir else ""
    modules = "".join(f" --module {shlex.quote(module)}" for module in args.module)
    lines = ["next:", f"  recllm eval {run}{data}{modules}"]
    trained = Run.load(str(model_dir))
    if tasks.learns_retrieval(trained.mixture, trained.dataset):
        catalog = CatalogSource(trained.dataset).catalog()
        rows = catalog.train_count.argsort(kind="stable")[:-3:-1]
        history = ", ".join(catalog.short_id[row] for row in rows)
        lines.append(f"  recllm recommend {run}{data} --history {history!r}")
    return "\n".join(lines)
