"""A SentencePiece vocabulary as `tokenizer.json`, which transformers reads as it stands.

transformers' own conversion of a SentencePiece file loses pieces that reach across spaces, such as
a dataset's phrases and ids. Here they are cut out of the text before byte-pair encoding begins, the
longest at each place, as SentencePiece does.
"""

import base64
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write
from recllm_tasks.prompts.vocabulary import SENTINELS, read_model

FILE_NAME, SETTINGS, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"

_SPACE = "\u2581"
_UNIGRAM, _BPE = 1, 2  # of TrainerSpec.ModelType
_NORMAL, _USER_DEFINED, _CONTROL = 1, 4, (2, 3, 5)  # of SentencePiece.Type
# What SentencePiece writes for an unknown piece.
_UNKNOWN_TEXT = " \u2047 "


def write_tokenizer(sentencepiece_file: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Writes the tokenizer, with T5's sentinels, into an existing folder.

    Sentinels are ordinary tokens and special ones are not read from text, as in SeqIO: a title that
    contains "</s>" ends nothing.

    Raises:
      UserError: the vocabulary is of a kind that `tokenizer.json` cannot hold.
    """
    model = read_model(sentencepiece_file)
    _check(model, sentencepiece_file)
    pieces = [piece.piece for piece in model.pieces]
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(SENTINELS))]
    pad, eos = (pieces[model.trainer_spec.pad_id], pieces[model.trainer_spec.eos_id])
    added = [
        _added(model.trainer_spec.pad_id, pad, special=True),
        _added(model.trainer_spec.eos_id, eos, special=True),
        *(_added(len(pieces) + place, name, special=False) for place, name in enumerate(sentinels)),
    ]
    of_end = {"SpecialToken": {"id": eos, "type_id": 0}}
    text, pair = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": _normalizer(model.normalizer_spec),
        "pre_tokenizer": _cuts(model),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text, of_end],
            "pair": [text, of_end, pair, of_end],
            "special_tokens": {
                eos: {"id": eos, "ids": [model.trainer_spec.eos_id], "tokens": [eos]}
            },
        },
        "decoder": _decoder(pieces[model.trainer_spec.unk_id], model),
        "model": _model(model, sentinels),
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "eos_token": eos,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        # The largest number that transformers knows: no limit.
        "model_max_length": int(1e30),
    }
    for name, content in (
        (FILE_NAME, tokenizer),
        (SETTINGS, settings),
        (SPECIAL, {"pad_token": pad, "eos_token": eos}),
    ):
        with atomic_write(pathlib.Path(folder) / name) as f:
            json.dump(content, f, ensure_ascii=False, indent=None if name == FILE_NAME else 2)
            f.write("\n")


def _check(model: Any, file: str | os.PathLike) -> None:
    trainer = model.trainer_spec
    problem = None
    if trainer.model_type not in (_UNIGRAM, _BPE):
        problem = f"model type {trainer.model_type}, expected unigram or byte-pair encoding"
    elif trainer.treat_whitespace_as_suffix:
        problem = "spaces at the ends of words, expected them at the beginnings"
    elif not model.normalizer_spec.escape_whitespaces:
        problem = f"spaces as they are, expected them as {_SPACE}"
    elif min(trainer.pad_id, trainer.eos_id, trainer.unk_id) < 0:
        problem = "no pad, end or unknown piece, expected all three, as in T5"
    if problem:
        raise UserError(
            f"Vocabulary '{os.fspath(file)}' for transformers: got {problem}; convert without it, "
            "by removing it from the folder"
        )


def _added(number: int, content: str, *, special: bool) -> dict[str, Any]:
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _replace(pattern: Mapping[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _normalizer(spec: Any) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode("ascii")
        # `Precompiled` maps short clusters of characters as one, but longer ones one by one, so
        # those that can be one character must be it before.
        steps += [{"type": "NFC"}, {"type": "Precompiled", "precompiled_charsmap": charsmap}]
    if spec.remove_extra_whitespaces:
        steps += [
            _replace({"Regex": f"^ +|[ {_SPACE}]+$"}, ""),
            _replace({"Regex": " {2,}"}, " "),
        ]
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": " "})
    return {"type": "Sequence", "normalizers": [*steps, _replace({"String": " "}, _SPACE)]}


def _cuts(model: Any) -> dict[str, Any] | None:
    """Cuts out what must not be read with its neighbours.

    User-defined pieces, the longest at each place, where pieces are made by merging; and the first
    character of control pieces such as "</s>", which text does not hold.
    """
    merges = model.trainer_spec.model_type == _BPE
    whole = [piece.piece for piece in model.pieces if piece.type == _USER_DEFINED and merges]
    control = [piece.piece for piece in model.pieces if piece.type in _CONTROL]
    # Merging makes no control piece; it would have to be all that is left between two cuts.
    before = f"(?<=[^{_SPACE}])" if merges else ""
    cut = [f"{before}{re.escape(c[:1])}(?={re.escape(c[1:])})" for c in control]
    pattern = "|".join([*([_any_of(whole)] if whole else []), *cut])
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _any_of(words: Sequence[str]) -> str:
    """A regular expression for the longest of some words at a place, quick for many words."""
    root: dict[str, Any] = {}
    for word in words:
        node = root
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    return _expression(root)


def _expression(node: dict[str, Any]) -> str:
    written = ""
    while len(node) == 1 and "" not in node:
        (character, node), *_ = node.items()
        written += re.escape(character)
    below = {character: child for character, child in node.items() if character}
    if not below:
        return written
    last = [character for character, child in below.items() if child.keys() == {""}]
    choices = [
        re.escape(character) + _expression(child)
        for character, child in below.items()
        if character not in last
    ]
    if last:
        choices.append("[" + "".join(map(re.escape, last)) + "]")
    return f"{written}(?:{'|'.join(choices)}){'?' if '' in node else ''}"


def _model(model: Any, sentinels: Sequence[str]) -> dict[str, Any]:
    trainer, pieces = model.trainer_spec, model.pieces
    if trainer.model_type == _UNIGRAM:
        best = max(piece.score for piece in pieces if piece.type == _NORMAL)
        vocab = [
            # As SentencePiece scores them, so that they nearly always win.
            [p.piece, len(p.piece.encode()) * best - 0.1 if p.type == _USER_DEFINED else p.score]
            for p in pieces
        ]
        return {
            "type": "Unigram",
            "unk_id": trainer.unk_id,
            "vocab": [*vocab, *([name, 0.0] for name in sentinels)],
            "byte_fallback": trainer.byte_fallback,
        }
    names = [*(piece.piece for piece in pieces), *sentinels]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": pieces[trainer.unk_id].piece,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": trainer.byte_fallback,
        # What `_cuts` cuts out is one piece, whatever merges there are.
        "ignore_merges": True,
        "vocab": {name: number for number, name in enumerate(names)},
        "merges": _merges(pieces),
    }


def _merges(pieces: Sequence[Any]) -> list[list[str]]:
    """The pairs that make a piece, the best piece first; pieces without a pair are characters."""
    scores = {piece.piece: piece.score for piece in pieces if piece.type == _NORMAL}
    merges = []
    for piece in sorted(scores, key=lambda name: -scores[name]):
        for place in range(1, len(piece)):
            pair = [piece[:place], piece[place:]]
            if all(part in scores for part in pair):
                merges.append(pair)
    return merges


def _decoder(unknown: str, model: Any) -> dict[str, Any]:
    steps = [
        _replace({"String": unknown}, _UNKNOWN_TEXT),
        _replace({"String": _SPACE}, " "),
        _replace({"Regex": "(?=<extra_id_[0-9]+>)"}, " "),
    ]
    if model.trainer_spec.byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if model.normalizer_spec.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}
