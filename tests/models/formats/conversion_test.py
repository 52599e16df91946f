"""Conversion between Hugging Face's folders and ours: the same numbers, whole or not at all."""

import dataclasses
import json
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from flax import traverse_util

from recllm_tasks import cli
from recllm_tasks.engine.checkpoints import BEST, Checkpoints
from recllm_tasks.errors import UserError
from recllm_tasks.models.config import T5Config
from recllm_tasks.models.formats import conversion, hugging_face_folder, parameters
from recllm_tasks.models.network import Transformer


def _convert(start, target, source, folder, **options):
    return conversion.convert(conversion.open_source(start, source), target, folder, **options)


def _our_logits(source, parameters, batch):
    tree = traverse_util.unflatten_dict(parameters, sep="/")
    network = Transformer(source.config)
    apply = jax.jit(lambda p, *x: network.apply({"params": p}, *x, enable_dropout=False))
    return apply(tree, *batch)


def test_there_and_back_nothing_changes(
    hf_model, hf_folder, tmp_path, parameters_of, torch_logits, batch
):
    ours = _convert("hf", "recllm", hf_folder, tmp_path / "ours", step=7)
    assert ours.step == 7
    expected = torch_logits(hf_model[0], *batch[:2])
    got = _our_logits(ours, parameters_of(ours), batch)
    np.testing.assert_allclose(got, expected, atol=1e-4)

    _convert("recllm", "hf", tmp_path / "ours", tmp_path / "back")
    back = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "back")
    for name, weight in hf_model[0].state_dict().items():
        assert torch.equal(back.state_dict()[name], weight), name
    np.testing.assert_array_equal(torch_logits(back, *batch[:2]), expected)
    assert json.loads((tmp_path / "back" / "conversion.json").read_text())["step"] == 7


def test_the_engine_restores_what_was_converted(hf_model, hf_folder, tmp_path):
    params = hf_model[2]
    _convert("hf", "recllm", hf_folder, tmp_path / "ours", step=7)
    checkpoints = Checkpoints(str(tmp_path / "ours"))
    assert checkpoints.latest_step(BEST) == 7
    restored = checkpoints.restore(BEST, like=params)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, params)


def test_shards_are_read_and_written(
    hf_model, hf_folder, tmp_path, monkeypatch, torch_logits, batch
):
    hf_model[0].save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    monkeypatch.setattr(hugging_face_folder, "SHARD_BYTES", 30_000)
    _convert("hf", "hf", tmp_path / "shards", tmp_path / "again")
    assert len(list((tmp_path / "again").glob("model-0000*-of-0000*.safetensors"))) > 3
    assert not (tmp_path / "again" / "model.safetensors").exists()
    np.testing.assert_array_equal(
        torch_logits(tmp_path / "again", *batch[:2]), torch_logits(hf_folder, *batch[:2])
    )


@pytest.mark.parametrize("target", conversion.FORMATS)
def test_bfloat16_is_the_nearest_one(hf_folder, tmp_path, parameters_of, target):
    source = conversion.open_source("hf", hf_folder)
    small = conversion.convert(source, target, tmp_path / "small", dtype="bfloat16")
    exact = parameters_of(source)
    for path, array in parameters_of(small).items():
        assert array.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(array, exact[path].astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("activations", [("gelu", "linear"), ("relu",)])
def test_a_model_with_one_table_of_tokens_has_torchs_logits(
    tmp_path, parameters_of, torch_logits, batch, activations
):
    config = T5Config(
        60,
        emb_dim=24,
        num_heads=4,
        head_dim=8,
        mlp_dim=40,
        num_encoder_layers=1,
        num_decoder_layers=2,
        mlp_activations=activations,
        logits_via_embedding=True,
    )
    rng = np.random.default_rng(0)
    shapes = parameters.shapes_of(config)
    values = {path: rng.normal(size=s).astype(np.float32) / 4 for path, s in shapes.items()}
    source = conversion.Source("memory", config, 3, values.__getitem__)
    made = conversion.convert(source, "hf", tmp_path / "hf")
    assert dataclasses.replace(made.config, dropout_rate=0.1) == config
    got = _our_logits(made, parameters_of(made), batch)
    np.testing.assert_allclose(got, torch_logits(tmp_path / "hf", *batch[:2]), atol=1e-4)


def test_a_run_is_converted_with_its_vocabulary(run_dir, tmp_path, parameters_of):
    made = _convert("recllm", "hf", run_dir, tmp_path / "hf")
    source = conversion.open_source("recllm", run_dir)
    assert source.step == 4
    for path, array in parameters_of(source).items():
        np.testing.assert_array_equal(made.read(path), array)
    spiece = (tmp_path / "hf" / "spiece.model").read_bytes()
    assert spiece == (pathlib.Path(run_dir) / "vocabulary.model").read_bytes()
    last = conversion.open_source("recllm", f"{run_dir}/checkpoints")
    assert last.where.endswith("checkpoints/4")
    assert set(parameters_of(last)) == set(parameters_of(source))


def _rewrite(folder: pathlib.Path, change) -> None:
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    change(arrays)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})


def _copy(folder: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


_KERNEL = "encoder.block.1.layer.1.DenseReluDense.wo.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop(_KERNEL), rf"missing: {_KERNEL}; "),
        (lambda a: a.update(odd=np.ones(2, np.float32)), r"unexpected: odd; "),
        (
            lambda a: a.update({_KERNEL: np.ascontiguousarray(a[_KERNEL].T)}),
            rf"of another shape: {_KERNEL} \[40, 24\] instead of \[24, 40\]; ",
        ),
        (lambda a: a.update({_KERNEL: a[_KERNEL].astype(np.int8)}), r"got I8"),
        (
            lambda a: a.update({"encoder.embed_tokens.weight": a["shared.weight"] + 1}),
            r"got a encoder.embed_tokens.weight unlike shared.weight",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(hf_folder, tmp_path, change, message):
    folder = _copy(hf_folder, tmp_path / "hf")
    _rewrite(folder, change)
    with pytest.raises(UserError, match=message):
        conversion.open_source("hf", folder)


def _cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: _cut(f / "model.safetensors"), r"Damaged file '.*model.safetensors'"),
        (lambda f: _cut(f / "config.json"), r"Configuration '.*config.json'"),
        (lambda f: (f / "config.json").unlink(), r"got no config.json"),
        (lambda f: (f / "config.json").write_text("[]"), r"Configuration '.*config.json'"),
        (lambda f: (f / "config.json").write_text('{"d_ff": 1}'), r"Configuration '.*config.json'"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            r"'.*pytorch_model.bin': got a pickle, .* expected model.safetensors",
        ),
        (lambda f: (f / "model.safetensors").unlink(), r"No arrays in"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                '{"weight_map": {"shared.weight": "../x"}}'
            ),
            r"Damaged index .* a file outside of the folder",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": 5}'),
            r"Damaged index .* no 'weight_map'",
        ),
        (
            lambda f: (f / "config.json").write_text('{"feed_forward_proj": ["relu"]}'),
            r"Configuration '.*config.json'",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                '{"weight_map": {"shared.weight": "gone.safetensors"}}'
            ),
            r"Damaged file '.*gone.safetensors'",
        ),
    ],
)
def test_damage_is_reported(hf_folder, tmp_path, damage, message):
    folder = _copy(hf_folder, tmp_path / "hf")
    damage(folder)
    with pytest.raises(UserError, match=message):
        conversion.open_source("hf", folder)


@pytest.mark.parametrize("target", conversion.FORMATS)
def test_what_fails_on_the_way_leaves_nothing(hf_folder, tmp_path, target):
    whole = conversion.open_source("hf", hf_folder)
    left = []

    def read(path):
        left.append(path)
        if len(left) == 30:
            raise KeyboardInterrupt
        return whole.read(path)

    with pytest.raises(KeyboardInterrupt):
        conversion.convert(dataclasses.replace(whole, read=read), target, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept_unless_a_conversion_wrote_it(hf_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    for options in ({}, {"overwrite": True}):
        with pytest.raises(UserError, match=r"'.*mine'"):
            _convert("hf", "recllm", hf_folder, tmp_path / "mine", **options)
    made = _convert("hf", "recllm", hf_folder, tmp_path / "made", step=1)
    with pytest.raises(UserError, match=r"expected a new name"):
        conversion.convert(made, "recllm", tmp_path / "made")
    with pytest.raises(UserError, match=r"the source itself"):
        conversion.convert(made, "recllm", tmp_path / "made", overwrite=True)
    _convert("hf", "recllm", hf_folder, tmp_path / "made", step=2, overwrite=True)
    assert [p.name for p in (tmp_path / "made" / "best").iterdir()] == ["2"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "mine"]


def test_a_changed_byte_of_a_converted_checkpoint_is_found_on_opening(hf_folder, tmp_path):
    made = tmp_path / "made"
    _convert("hf", "recllm", hf_folder, made)
    path = max(
        (p for p in (made / "best").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"Damaged file '{path}'"):
        conversion.open_source("recllm", made)


def test_a_full_disk_is_reported_before_anything_is_written(hf_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _: conversion.os.terminal_size([9]))
    monkeypatch.setattr(
        conversion.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})
    )
    with pytest.raises(UserError, match=r"got 0.0 GB, expected"):
        _convert("hf", "recllm", hf_folder, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_the_command_converts(hf_folder, tmp_path, capsys):
    arguments = ["convert", "--from", "hf", "--to", "recllm", str(hf_folder)]
    assert cli.main([*arguments, str(tmp_path / "ours"), "--step", "5"]) == 0
    assert (tmp_path / "ours" / "best" / "5").is_dir()
    assert str(tmp_path / "ours" / "best" / "5") in capsys.readouterr().err
    assert cli.main([*arguments, str(tmp_path / "x"), "--dtype", "int8"]) == 2
    assert "--dtype: got 'int8', expected one of float32, bfloat16" in capsys.readouterr().err
    assert cli.main([*arguments[:5], "nowhere", str(tmp_path / "x")]) == 2
    assert "No checkpoint at 'nowhere'" in capsys.readouterr().err
