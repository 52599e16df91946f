"""Hugging Face checkpoints of T5 and mT5: config.json and safetensors, sharded or not.

Two facts make the logits, and neither follows from the other. Whether they come from the token
table is what the arrays say: a file without a head of its own, or with an equal one, is tied, as in
transformers 5. Whether they are scaled is what the class of `model_type` says.

Pickles (`pytorch_model.bin`) are not read, because opening one can run any code.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors

from recllm_tasks.errors import UserError
from recllm_tasks.models.config import T5Config
from recllm_tasks.models.formats.checkpoint import Source, Target, Write
from recllm_tasks.models.formats.parameters import OUTPUT_NORM, check_shapes, shapes_of
from recllm_tasks.models.hugging_face import parameter_names

CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
GENERATION, VOCABULARY = "generation_config.json", "spiece.model"

# Our choice: small enough to hold a shard in memory until it is complete.
SHARD_BYTES = 2**30

_ACTIVATIONS = {
    "relu": ("relu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-relu": ("relu", "linear"),
    "gated-silu": ("silu", "linear"),
    "silu": ("silu",),
}
_SIZES = {
    "vocab_size": "vocab_size",
    "emb_dim": "d_model",
    "head_dim": "d_kv",
    "mlp_dim": "d_ff",
    "num_heads": "num_heads",
    "num_encoder_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
    "num_relative_buckets": "relative_attention_num_buckets",
    "max_relative_distance": "relative_attention_max_distance",
    "dropout_rate": "dropout_rate",
}
# What a configuration leaves out has the value of its class.
_OF_BOTH = {
    "d_model": 512,
    "d_kv": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "num_decoder_layers": None,
}
_DEFAULTS = {
    "t5": {
        **_OF_BOTH,
        "vocab_size": 32128,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
        "feed_forward_proj": "relu",
    },
    "mt5": {
        **_OF_BOTH,
        "vocab_size": 250112,
        "d_ff": 1024,
        "num_layers": 8,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
    },
}
_SPECIAL_TOKENS = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
_HEAD = "lm_head.weight"
# Names of the token table; a file has one or several. The head is one only where it is tied.
_TABLES = (
    "shared.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    _HEAD,
)
# Nothing reads it; old checkpoints have it.
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_DTYPES = ("F32", "BF16", "F16")


def is_one(folder: pathlib.Path) -> bool:
    return (folder / CONFIG).is_file()


def open_folder(folder: pathlib.Path) -> Source:
    """A T5 or mT5. Where its tied logits are not scaled, its table is read as the head as well.

    So are the published T5 1.1, FLAN-T5 and mT5, whose logits are not scaled either.

    Raises:
      UserError: the checkpoint is of another kind of model, is incomplete, or is a pickle.
    """
    config, is_scaled = _read_config(folder)
    file_of = _files(folder)
    found = _shapes(folder, file_of)
    _check_kind(folder, found)

    def array(name: str) -> np.ndarray:
        with _opened(folder / file_of[name]) as tensors:
            return tensors.get_tensor(name)

    table, *others = [name for name in _TABLES if name in file_of] or _TABLES[:1]
    copies = []
    for name in others:
        if table not in found or found.get(name) != found[table]:
            continue  # reported with all that does not fit
        if np.array_equal(array(name), array(table)):
            copies.append(name)
        elif name != _HEAD:
            raise UserError(
                f"Token tables in '{folder}': got a {name} unlike {table}, expected one shared "
                "table; give a T5 checkpoint"
            )
    is_tied = _HEAD not in file_of or _HEAD in (table, *copies)
    config = dataclasses.replace(config, logits_via_embedding=is_tied and is_scaled)
    of_table = {_TABLES[0]: table, **({_HEAD: table} if is_tied else {})}
    names = {
        path: (of_table.get(name, name), transposed)
        for path, (name, transposed) in parameter_names(config).items()
    }
    expected = {
        name: shapes_of(config)[path][::-1] if transposed else shapes_of(config)[path]
        for path, (name, transposed) in names.items()
    }
    left_out = (*copies, _UNUSED)
    check_shapes(str(folder), {n: s for n, s in found.items() if n not in left_out}, expected)
    scale = config.emb_dim**-0.5 if is_scaled and not is_tied else 1.0

    def read(path: str) -> np.ndarray:
        name, transposed = names[path]
        if path == OUTPUT_NORM and scale != 1:
            return array(name) * np.float32(scale)
        return array(name).T if transposed else array(name)

    vocabulary = folder / VOCABULARY
    return Source(str(folder), config, None, read, vocabulary if vocabulary.is_file() else None)


def check_trainable(folder: pathlib.Path) -> T5Config:
    """The sizes of a model that prompts can be made for; reads config.json alone.

    Raises:
      UserError: it is no T5, an encoder alone, or an mT5.
    """
    config, _ = _read_config(folder)
    stored = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if stored["model_type"] == "mt5":
        raise UserError(
            f"Model in '{folder}': got an mT5, whose vocabulary of 250,000 pieces joins words "
            "that prompts are assembled from, expected T5's vocabulary; give a FLAN-T5 or T5 1.1, "
            "such as google/flan-t5-base"
        )
    if stored.get("architectures") == ["T5EncoderModel"]:
        raise UserError(_encoder_alone(folder))
    return config


def no_vocabulary(what: str) -> str:
    """The message for a model without its SentencePiece vocabulary."""
    return (
        f"{what}: got no {VOCABULARY}, expected the SentencePiece vocabulary that it was trained "
        f"with; tokenizer.json is not read: put the {VOCABULARY} of the model that it was made "
        "from (google/flan-t5-base has T5's) into a folder with its files, and give --from FOLDER"
    )


def shards(folder: pathlib.Path) -> list[str]:
    """The files that the index names."""
    return sorted(set(_files(folder).values()))


def _check_kind(folder: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Raises UserError for arrays of an encoder alone."""
    if any(name.startswith("encoder.block.") for name in found) and not any(
        name.startswith("decoder.block.") for name in found
    ):
        raise UserError(_encoder_alone(folder))


def _encoder_alone(folder: pathlib.Path) -> str:
    return (
        f"Parameters in '{folder}': got an encoder without a decoder (T5EncoderModel), expected "
        "both; save the whole model, a T5ForConditionalGeneration"
    )


def _read_config(folder: pathlib.Path) -> tuple[T5Config, bool]:
    """(sizes, whether logits are scaled)."""
    path = folder / CONFIG
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError(f"a {type(stored).__name__} in place of an object")
        _check_model_type(folder, stored)
        sizes = {**_DEFAULTS[stored["model_type"]], **stored}
        if sizes["num_decoder_layers"] is None:
            sizes["num_decoder_layers"] = sizes["num_layers"]
        if sizes["layer_norm_epsilon"] != 1e-6:
            raise ValueError(f"layer_norm_epsilon {sizes['layer_norm_epsilon']}, expected 1e-6")
        kind = str(sizes["feed_forward_proj"])
        if kind not in _ACTIVATIONS:
            raise ValueError(f"feed_forward_proj {kind!r}")
        config = T5Config(
            mlp_activations=_ACTIVATIONS[kind],
            **{ours: sizes[its] for ours, its in _SIZES.items()},
        )
    except FileNotFoundError:
        raise UserError(
            f"No Hugging Face checkpoint in '{folder}': got no {CONFIG}, expected a folder with "
            f"{CONFIG} and {WHOLE}; correct the path"
        ) from None
    except (ValueError, UserError) as error:
        raise UserError(
            f"Configuration '{path}': got {error}, expected a T5 or mT5 with feed_forward_proj "
            f"{' or '.join(_ACTIVATIONS)}; convert another model"
        ) from error
    return config, _is_scaled(path, stored)


def _check_model_type(folder: pathlib.Path, stored: Mapping[str, Any]) -> None:
    """Raises ValueError for another kind of model, also for one that calls itself a T5."""
    kind = stored.get("model_type")
    if kind == "umt5":
        raise ValueError("a umt5, whose every layer has position biases of its own")
    if kind not in _DEFAULTS:
        raise ValueError(f"model_type {kind!r}" if kind else "no model_type")
    settings = folder / "tokenizer_config.json"
    names = [stored.get("tokenizer_class")]
    if settings.is_file():
        read = json.loads(settings.read_text(encoding="utf-8"))
        names.append(read.get("tokenizer_class") if isinstance(read, dict) else None)
    if any(str(name).startswith("ByT5Tokenizer") for name in names):
        raise ValueError("a ByT5, which reads bytes and has no SentencePiece vocabulary")


def _is_scaled(path: pathlib.Path, stored: Mapping[str, Any]) -> bool:
    """Whether logits are divided by the root of d_model.

    T5 does so unless `tie_word_embeddings` is false. transformers 5 stores it as true for every T5,
    and beside it `scale_decoder_outputs`. mT5 never does so in transformers 5. In transformers 4 it
    does where it is tied, which no published mT5 is.

    Raises:
      UserError: a tied mT5 of transformers 4.
    """
    if "scale_decoder_outputs" in stored:
        return bool(stored["scale_decoder_outputs"])
    is_tied = stored.get("tie_word_embeddings")
    if stored["model_type"] == "t5":
        return is_tied is not False
    if is_tied and str(stored.get("transformers_version", "")).startswith("4."):
        raise UserError(
            f"Configuration '{path}': got a tied mT5 of transformers "
            f"{stored['transformers_version']}, which scales logits where transformers 5 does not, "
            'expected to know which of them the model learned; add "scale_decoder_outputs": true '
            "to the file for transformers 4's, or false for transformers 5's"
        )
    return False


def _files(folder: pathlib.Path) -> dict[str, str]:
    """The file of each array."""
    if (folder / INDEX).is_file():
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            file_of = index.get("weight_map") if isinstance(index, dict) else None
            if not isinstance(file_of, dict):
                raise ValueError("no 'weight_map'")
            if any(str(name) != pathlib.Path(str(name)).name for name in file_of.values()):
                raise ValueError("a file outside of the folder")
            return file_of
        except ValueError as error:
            raise UserError(
                f"Damaged index '{folder / INDEX}': got {error}, expected the file of each array; "
                "restore it from a copy"
            ) from error
    if (folder / WHOLE).is_file():
        with _opened(folder / WHOLE) as tensors:
            return dict.fromkeys(tensors.keys(), WHOLE)
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise UserError(
            f"Checkpoint '{folder / pickles[0]}': got a pickle, which can run any code, expected "
            f"{WHOLE}; use the model's safetensors. If you trust the file, convert it with "
            "T5ForConditionalGeneration.from_pretrained(…).save_pretrained(…)"
        )
    raise UserError(
        f"No arrays in '{folder}': got neither {WHOLE} nor {INDEX}, expected one of them; "
        "download it, with the shards of an index"
    )


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    """The file, read piece by piece, not memory-mapped."""
    try:
        with safetensors.safe_open(path, framework="np", backend="pread") as tensors:
            yield tensors
    except (safetensors.SafetensorError, FileNotFoundError) as error:
        raise UserError(
            f"Damaged file '{path}': got {error}, expected safetensors; restore it from a copy"
        ) from error


def _shapes(folder: pathlib.Path, file_of: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for file in sorted(set(file_of.values())):
        with _opened(folder / file) as tensors:
            present = set(tensors.keys())
            for name in (name for name, its in file_of.items() if its == file):
                if name not in present:
                    continue  # reported as missing
                found = tensors.get_slice(name)
                if found.get_dtype() not in _DTYPES:
                    raise UserError(
                        f"Array {name} in '{folder / file}': got {found.get_dtype()}, expected one "
                        f"of {', '.join(_DTYPES)}; use a checkpoint that is not quantised"
                    )
                shapes[name] = tuple(found.get_shape())
    return shapes


@contextlib.contextmanager
def writer(target: Target) -> Iterator[Write]:
    """Accepts all parameters in the order of `shapes_of`; writes each shard when it is full."""
    _write_json(target.folder / CONFIG, _config_of(target))
    _write_json(target.folder / GENERATION, _SPECIAL_TOKENS)
    names = parameter_names(target.config)
    num_bytes = {
        path: math.prod(shape) * target.dtype.itemsize
        for path, shape in shapes_of(target.config).items()
    }
    shards = _shards(num_bytes)
    counted = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    files = [WHOLE] if len(shards) == 1 else counted
    waiting, arrays = list(zip(files, shards)), {}

    def write(path: str, array: np.ndarray) -> None:
        name, transposed = names[path]
        arrays[name] = np.ascontiguousarray(array.T if transposed else array)
        if len(arrays) == len(waiting[0][1]):
            file, _ = waiting.pop(0)
            _write_shard(target.folder / file, arrays)
            arrays.clear()

    yield write
    if len(shards) > 1:
        file_of = {names[path][0]: file for file, paths in zip(files, shards) for path in paths}
        total = {"total_size": sum(num_bytes.values())}
        _write_json(target.folder / INDEX, {"metadata": total, "weight_map": file_of})


def _shards(num_bytes: Mapping[str, int]) -> list[list[str]]:
    """The paths in order, split where a shard is full."""
    shards: list[list[str]] = [[]]
    size = 0
    for path, more in num_bytes.items():
        if shards[-1] and size + more > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(path)
        size += more
    return shards


def _write_shard(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    specs = {
        name: safetensors.TensorSpec(
            dtype=array.dtype.name,
            shape=array.shape,
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in arrays.items()
    }
    # safetensors makes a file that only its owner can read, whatever the umask allows.
    path.touch()
    mode = path.stat().st_mode
    safetensors.serialize_file(specs, path, metadata={"format": "pt"})
    os.chmod(path, mode)


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _config_of(target: Target) -> dict[str, Any]:
    config = target.config
    kinds = {activations: kind for kind, activations in _ACTIVATIONS.items()}
    if config.mlp_activations not in kinds:
        raise UserError(
            f"T5Config.mlp_activations: got {config.mlp_activations}, expected one of "
            f"{', '.join(map(str, kinds))}, as in transformers; convert to another format"
        )
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        **{its: getattr(config, ours) for ours, its in _SIZES.items()},
        "feed_forward_proj": kinds[config.mlp_activations],
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": config.logits_via_embedding,
        "scale_decoder_outputs": config.logits_via_embedding,
        "is_encoder_decoder": True,
        **_SPECIAL_TOKENS,
        "dtype": target.dtype.name,
    }
