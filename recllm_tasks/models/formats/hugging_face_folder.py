"""Hugging Face checkpoints: config.json and safetensors, sharded or not.

Pickles (`pytorch_model.bin`) are not read, because opening one can run any code.
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors

from recllm_tasks.errors import UserError
from recllm_tasks.models.config import T5Config
from recllm_tasks.models.formats.checkpoint import Source, Target, Write
from recllm_tasks.models.formats.parameters import check_shapes, shapes_of
from recllm_tasks.models.hugging_face import parameter_names

CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
VOCABULARY = "spiece.model"

# Our choice: small enough to hold a shard in memory until it is complete.
SHARD_BYTES = 2**30

_ACTIVATIONS = {
    "relu": ("relu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),
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
_TABLE = "shared.weight"
# Other names of the same table, which some versions store.
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_DTYPES = ("F32", "BF16", "F16")


def is_one(folder: pathlib.Path) -> bool:
    return (folder / CONFIG).is_file()


def open_folder(folder: pathlib.Path) -> Source:
    """Raises UserError if the checkpoint is not a T5, is incomplete, or is a pickle."""
    config = _read_config(folder)
    file_of = _files(folder)
    found = _shapes(folder, file_of)
    names = parameter_names(config)
    expected = {
        names[path][0]: shape[::-1] if names[path][1] else shape
        for path, shape in shapes_of(config).items()
    }
    copies = (*_COPIES, *(("lm_head.weight",) if config.logits_via_embedding else ()))
    copies = [name for name in copies if name in found and found[name] == expected[_TABLE]]
    check_shapes(str(folder), {n: s for n, s in found.items() if n not in copies}, expected)

    def array(name: str) -> np.ndarray:
        with _opened(folder / file_of[name]) as tensors:
            return tensors.get_tensor(name)

    for name in copies:
        if not np.array_equal(array(name), array(_TABLE)):
            raise UserError(
                f"Token tables in '{folder}': got a {name} unlike {_TABLE}, expected one shared "
                "table; give a T5 checkpoint"
            )

    def read(path: str) -> np.ndarray:
        name, transposed = names[path]
        return array(name).T if transposed else array(name)

    vocabulary = folder / VOCABULARY
    return Source(str(folder), config, None, read, vocabulary if vocabulary.is_file() else None)


def _read_config(folder: pathlib.Path) -> T5Config:
    path = folder / CONFIG
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError(f"a {type(stored).__name__} in place of an object")
        stored.setdefault("num_decoder_layers", stored.get("num_layers"))
        if stored["num_decoder_layers"] is None:
            stored["num_decoder_layers"] = stored["num_layers"]
        sizes = {ours: stored[its] for ours, its in _SIZES.items() if its in stored}
        if stored.get("layer_norm_epsilon", 1e-6) != 1e-6:
            raise ValueError(f"layer_norm_epsilon {stored['layer_norm_epsilon']}, expected 1e-6")
        return T5Config(
            mlp_activations=_ACTIVATIONS[str(stored.get("feed_forward_proj", "relu"))],
            logits_via_embedding=_is_tied(stored),
            **sizes,
        )
    except FileNotFoundError:
        raise UserError(
            f"No Hugging Face checkpoint in '{folder}': got no {CONFIG}, expected a folder with "
            f"{CONFIG} and {WHOLE}; correct the path"
        ) from None
    except (KeyError, ValueError, UserError) as error:
        raise UserError(
            f"Configuration '{path}': got {error}, expected a T5 with feed_forward_proj "
            f"{' or '.join(_ACTIVATIONS)}; convert another model"
        ) from error


def _is_tied(stored: Mapping[str, Any]) -> bool:
    """Whether the logits come from the scaled token table, as in T5 1.0.

    transformers 5 stores `tie_word_embeddings: true` for T5 1.1 too. It uses
    `scale_decoder_outputs`, which older configurations lack.
    """
    return bool(stored.get("scale_decoder_outputs", stored.get("tie_word_embeddings", True)))


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
    safetensors.serialize_file(specs, path, metadata={"format": "pt"})


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
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "dtype": target.dtype.name,
    }
