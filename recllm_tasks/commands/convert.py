"""`recllm convert`: writes a checkpoint in another format, and verifies that it is the same."""

import argparse
import os
import shlex

from recllm_tasks.commands import session
from recllm_tasks.errors import UserError, check_whole
from recllm_tasks.progress import console

SUMMARY = "write a checkpoint in another format"
EPILOG = """\
formats:
  hf      a folder of Hugging Face transformers: config.json and safetensors, sharded or not, of T5
          and mT5. Written with tokenizer.json and a model card; from a run also with the catalog
          and recommend.py, which recommends its items with transformers alone
  t5x     T5X's checkpoint_<step>, or the folder that holds it. Both Orbax and legacy checkpoints
          are read, Orbax is written; --to t5x_legacy writes the form in which FLAN-T5 was published
  recllm  the MODEL_DIR of a run (its best state, else the last), or a converted folder

Parameters are converted one at a time, so memory holds only the largest few. All names and shapes
are checked first, and DST appears only once it is complete. --verify reads both checkpoints again;
if transformers is installed and memory allows, PyTorch reads the hf side.

With --to hf, --push uploads the folder with its model card to the Hugging Face Hub, as one commit.
The repository is private unless you give --public: a model of a shop's sales says something about
them. It needs `pip install 'recllm_tasks[hub]'` and a token (`hf auth login`, or $HF_TOKEN).
Without this option nothing is ever uploaded.

exit code: 0 done, 1 --verify found a difference, 2 SRC is missing, damaged, or does not fit.

examples:
  recllm convert --from recllm --to hf /tmp/run /tmp/for_transformers --verify \\
    --data_dir ~/recllm_data
  python /tmp/for_transformers/recommend.py I17 I4
  recllm convert --from recllm --to hf /tmp/run /tmp/for_transformers --push myshop/recommender
  recllm convert --from t5x --to hf ~/flan_t5_xl/checkpoint_1138000 /tmp/for_transformers
  recllm convert --from hf --to recllm ~/flan-t5-xl /tmp/flan_t5_xl --dtype bfloat16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder to read")
    parser.add_argument("destination", metavar="DST", help="folder to write")
    parser.add_argument("--from", required=True, dest="source_format", metavar="FORMAT")
    parser.add_argument("--to", required=True, dest="target_format", metavar="FORMAT")
    parser.add_argument("--dtype", default="float32", help="float32 (default) or bfloat16")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare log-probabilities of prompts in both; exit code 1 if they differ",
    )
    parser.add_argument(
        "--vocabulary", metavar="FILE", help="SentencePiece model for --verify; SRC's by default"
    )
    parser.add_argument("--step", type=int, help="of the target; the source's by default")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the output of an earlier conversion"
    )
    parser.add_argument(
        "--push",
        metavar="NAME",
        help="with --to hf: upload DST to the Hugging Face Hub as NAME or OWNER/NAME, private",
    )
    parser.add_argument("--public", action="store_true", help="with --push: all may read it")
    session.add_data_arguments(parser)


def run(args) -> int:
    from recllm_tasks.models import hub
    from recllm_tasks.models.formats import conversion

    for option, value, known in (
        ("--from", args.source_format, conversion.SOURCES),
        ("--to", args.target_format, conversion.FORMATS),
        ("--dtype", args.dtype, conversion.DTYPES),
    ):
        if value not in known:
            raise UserError(f"{option}: got '{value}', expected one of {', '.join(known)}")
    if args.step is not None:
        check_whole("--step", args.step, 0)
    _check_push(args)
    source = conversion.open_source(args.source_format, args.source)
    prompts = _prompts(args, source) if args.verify else None
    name = hub.owned(args.push) if args.push else None
    made = conversion.convert(
        source,
        args.target_format,
        args.destination,
        dtype=args.dtype,
        step=args.step,
        overwrite=args.overwrite,
        beside=_beside(args, source, name) if args.target_format == "hf" else None,
    )
    console.print(f"{source.where} → {made.where}")
    code = 0 if prompts is None else _verify(args, source, made, prompts)
    if name is not None and code == 0:
        _push(args, made, name)
    return code


def _check_push(args) -> None:
    """Raises UserError for wrong uses of --push, before anything is converted."""
    from recllm_tasks.models import hub

    if args.public and args.push is None:
        raise UserError("--public: got it without --push, expected both; give --push NAME")
    if args.push is None:
        return
    if args.target_format != "hf":
        raise UserError(
            f"--push: got --to {args.target_format}, expected --to hf, which the Hub's readers "
            "know; change it, or leave out --push"
        )
    hub.check_name(args.push)


def _push(args, made, name: str) -> None:
    import pathlib

    from recllm_tasks.models import hub

    try:
        address = hub.push(pathlib.Path(made.where), name, args.public)
    except UserError as error:
        private = "" if args.public else " --private"
        raise UserError(
            f"{error}. '{made.where}' is complete: run the command again with --overwrite, or "
            f"`hf upload {name} {shlex.quote(made.where)}{private}`"
        ) from error
    who = "public" if args.public else "private"
    console.print(f"{made.where} → {address} ({who})", markup=False, soft_wrap=True)


def _beside(args, source, name: str | None):
    """A function that writes what transformers needs besides the parameters."""
    from recllm_tasks.engine import hugging_face_export

    session.use_data_dir(args)
    session.register_tasks(args)

    def write(folder) -> None:
        if not hugging_face_export.write(folder, source, name, bool(args.data_dir)):
            console.print(
                "without catalog and recommend.py: no run, or its dataset is not in the data "
                "folder; name that with --data_dir",
                markup=False,
            )

    return write


def _prompts(args, source):
    """Tokens of a few prompts, padded with 0: inputs [B, L] and targets [B, Q]."""
    import numpy as np
    import seqio

    from recllm_tasks.prompts.samples import sample_prompts
    from recllm_tasks.prompts.vocabulary import SENTINELS

    path = args.vocabulary or source.vocabulary
    if path is None or not os.path.isfile(path):
        raise UserError(
            f"Vocabulary for --verify: got {path or 'none'} beside '{source.where}', expected the "
            "model's SentencePiece file; name it with --vocabulary"
        )
    vocabulary = seqio.SentencePieceVocabulary(str(path), extra_ids=SENTINELS)
    size = source.config.vocab_size
    if vocabulary.vocab_size > size:
        raise UserError(
            f"Vocabulary '{path}' for '{source.where}': got {vocabulary.vocab_size} ids, expected "
            f"at most {size}; name the model's own with --vocabulary"
        )

    def padded(texts):
        rows = [[*vocabulary.encode(text), vocabulary.eos_id] for text in texts]
        array = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for place, row in enumerate(rows):
            array[place, : len(row)] = row
        return array

    return tuple(padded(texts) for texts in zip(*sample_prompts()))


def _verify(args, source, made, prompts) -> int:
    from recllm_tasks.models.formats import conversion, verification

    formats = (args.source_format, args.target_format)
    inputs, targets = prompts
    difference = verification.compare(
        source, made, formats, inputs, targets, conversion.DTYPES[args.dtype]
    )
    what = (
        f"{difference.tokens} tokens of {len(inputs)} prompts, mean log-probability "
        f"{difference.mean_score:.4f}, source read by {difference.readers[0]}, target by "
        f"{difference.readers[1]}: largest difference {difference.largest:.2g}"
    )
    if difference.is_small:
        console.print(f"the same: {what}")
        if ("hf", "our network") in zip(formats, difference.readers):
            console.print(
                "The Hugging Face side was read by our network alone, for want of transformers or "
                "of memory: how we read it is not verified. `pip install torch transformers`, or "
                "use a machine with more memory",
                highlight=False,
            )
        return 0
    console.print(
        f"NOT the same: {what}, expected at most {verification.TOLERANCE:g}; do not use "
        f"'{made.where}', and report it with the versions of your packages",
        style="red",
    )
    return 1
