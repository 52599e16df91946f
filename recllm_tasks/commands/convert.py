"""`recllm convert`: a checkpoint in another format, and the proof that it is the same."""

import os

from recllm_tasks.errors import UserError, check_whole
from recllm_tasks.progress import console


def run(args) -> int:
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
    source = conversion.open_source(args.source_format, args.source)
    prompts = _prompts(args, source) if args.verify else None
    made = conversion.convert(
        source,
        args.target_format,
        args.destination,
        dtype=args.dtype,
        step=args.step,
        overwrite=args.overwrite,
    )
    console.print(f"{source.where} → {made.where}")
    return 0 if prompts is None else _verify(args, source, made, prompts)


def _prompts(args, source):
    """Tokens (inputs [B, L], targets [B, Q]) of a few prompts, padded with 0."""
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
    difference = verification.compare(
        source, made, formats, *prompts, conversion.DTYPES[args.dtype]
    )
    what = (
        f"{difference.tokens} tokens of {len(prompts[0])} prompts, mean log-probability "
        f"{difference.mean_score:.4f}, source read by {difference.readers[0]}, target by "
        f"{difference.readers[1]}: largest difference {difference.largest:.2g}"
    )
    if difference.is_small:
        console.print(f"the same: {what}")
        return 0
    console.print(
        f"NOT the same: {what}, expected at most {verification.TOLERANCE:g}; do not use "
        f"'{made.where}', and report it with the versions of your packages",
        style="red",
    )
    return 1
