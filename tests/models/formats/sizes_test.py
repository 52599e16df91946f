"""Published sizes: small and base against torch, XL by names and shapes, and by its memory."""

import dataclasses
import json
import math
import pathlib
import shutil
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import transformers

from recllm_tasks.errors import UserError
from recllm_tasks.models.config import T5Config
from recllm_tasks.models.formats import conversion, hugging_face_folder, parameters, verification
from recllm_tasks.runs import memory

_SMALL = T5Config(
    32128, mlp_dim=1024, num_heads=6, num_encoder_layers=8, num_decoder_layers=8, emb_dim=512
)
_BASE = dataclasses.replace(
    _SMALL, emb_dim=768, mlp_dim=2048, num_heads=12, num_encoder_layers=12, num_decoder_layers=12
)
XL = dataclasses.replace(
    _SMALL, emb_dim=2048, mlp_dim=5120, num_heads=32, num_encoder_layers=24, num_decoder_layers=24
)


def _transformers_config(config: T5Config) -> transformers.T5Config:
    return transformers.T5Config(
        d_model=config.emb_dim,
        d_ff=config.mlp_dim,
        num_layers=config.num_encoder_layers,
        num_heads=config.num_heads,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", [_SMALL, _BASE], ids=["small", "base"])
def test_through_all_formats_and_back(config, tmp_path):
    """A random T5 1.1 of transformers: two minutes and 3 GB of disk for base."""
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(_transformers_config(config))
    model.lm_head.weight = torch.nn.Parameter(torch.randn(32128, config.emb_dim) / 8)
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path / "start")
    start = source = conversion.open_source("hf", tmp_path / "start")
    assert dataclasses.replace(source.config, dropout_rate=0.1) == config
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(2, 32000, (2, 40)), rng.integers(2, 32000, (2, 5))
    for format in ("t5x", "recllm", "t5x_legacy", "hf"):
        source = conversion.convert(source, format, tmp_path / format)
        pair = (start, source), ("hf", format)
        found = verification.compare(*pair[0], pair[1], inputs, targets, np.dtype(np.float32))
        assert found.is_small, (format, found)
    back = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "hf")
    for name, weight in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight), name


def test_names_and_shapes_of_xl_are_those_of_transformers():
    with torch.device("meta"):
        model = transformers.T5ForConditionalGeneration(_transformers_config(XL))
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    theirs = {n: tuple(w.shape) for n, w in model.state_dict().items() if n not in copies}
    names, shapes = hugging_face_folder.parameter_names(XL), parameters.shapes_of(XL)
    assert {
        name: shapes[path][::-1] if transposed else shapes[path]
        for path, (name, transposed) in names.items()
    } == theirs
    assert len(shapes) == 558
    assert sum(math.prod(shape) for shape in shapes.values()) == 2_849_757_184
    assert parameters.sizes_of("XL", shapes) == XL


def _sparse_folder(folder: pathlib.Path, config: T5Config, leave_out: str) -> pathlib.Path:
    """A safetensors file with the right header and a hole in place of its numbers."""
    folder.mkdir()
    names, end, header = hugging_face_folder.parameter_names(config), 0, {}
    for path, shape in parameters.shapes_of(config).items():
        name, transposed = names[path]
        if name != leave_out:
            size = 4 * math.prod(shape)
            its = shape[::-1] if transposed else shape
            header[name] = {"dtype": "F32", "shape": its, "data_offsets": [end, end + size]}
            end += size
    packed = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(packed)) + packed)
        f.truncate(8 + len(packed) + end)
        # Tables of equal numbers would count as one.
        f.seek(8 + len(packed) + header["lm_head.weight"]["data_offsets"][0])
        f.write(struct.pack("<f", 1.0))
    target = conversion.Target(folder, config, np.dtype(np.float32), 0)
    text = json.dumps(hugging_face_folder._config_of(target))
    (folder / "config.json").write_text(text)
    return folder


def test_a_whole_xl_is_checked_without_its_memory(tmp_path):
    memory.reset_peak()
    before = memory.peak_bytes()
    source = conversion.open_source("hf", _sparse_folder(tmp_path / "whole", XL, ""))
    assert dataclasses.replace(source.config, dropout_rate=0.1) == XL
    assert source.read("encoder/layers_23/mlp/wi_0/kernel").shape == (2048, 5120)
    assert memory.peak_bytes() - before < 1_000_000_000
    name = "decoder.block.23.layer.1.EncDecAttention.o.weight"
    with pytest.raises(UserError, match=rf"missing: {name}; expected the 558 parameters"):
        conversion.open_source("hf", _sparse_folder(tmp_path / "part", XL, name))


_CONVERT = """
import sys
from recllm_tasks import cli
from recllm_tasks.runs import memory
code = cli.main(sys.argv[1:])
print("RESULT", code, memory.peak_bytes())
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", conversion.DTYPES)
def test_xl_moves_through_all_formats_within_4_gb(dtype, tmp_path):
    """Minutes, and 23 GB of disk in float32."""
    size = 2_849_757_184 * conversion.DTYPES[dtype].itemsize
    if shutil.disk_usage(tmp_path).free < 2.2 * size:
        pytest.skip(f"needs {2.2 * size / 1e9:.0f} GB of disk in {tmp_path}")

    def read(path):
        rng = np.random.default_rng(list(path.encode()))
        return rng.standard_normal(parameters.shapes_of(XL)[path], np.float32) / 50

    conversion.convert(conversion.Source("memory", XL, 0, read), "hf", tmp_path / "hf", dtype=dtype)
    start = "hf"
    for target in ("t5x", "recllm", "hf"):
        source = tmp_path / start
        command = [sys.executable, "-c", _CONVERT, "convert", "--from", start, "--to", target]
        begun = time.monotonic()
        done = subprocess.run(
            [*command, "--dtype", dtype, str(source), str(tmp_path / "next")],
            capture_output=True,
            text=True,
            check=True,
        )
        code, peak = map(int, done.stdout.split("RESULT ")[1].split())
        seconds = time.monotonic() - begun
        sys.stderr.write(
            f"XL, {dtype}, {start} to {target}: {seconds:.0f} s, {peak / 1e9:.2f} GB\n"
        )
        assert code == 0
        assert peak < 4e9
        shutil.rmtree(source)
        (tmp_path / "next").rename(tmp_path / target)
        start = target
    made = conversion.open_source("hf", tmp_path / "hf")
    for path in list(parameters.shapes_of(XL))[::50]:
        expected = read(path).astype(conversion.DTYPES[dtype])
        np.testing.assert_array_equal(made.read(path), expected)
