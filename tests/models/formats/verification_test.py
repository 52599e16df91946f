"""`--verify`: it agrees with torch, and finds what shapes cannot show."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

from recllm_tasks import cli
from recllm_tasks.models.config import T5Config
from recllm_tasks.models.formats import conversion, hugging_face_folder, verification
from recllm_tasks.models.formats.parameters import shapes_of
from recllm_tasks.models.formats.scores import token_scores

FLOAT32, BFLOAT16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def square():
    """A random T5 in memory in which, as in XL, the matrices of attention are square."""
    config = T5Config(
        60,
        emb_dim=32,
        num_heads=4,
        head_dim=8,
        mlp_dim=40,
        num_encoder_layers=2,
        num_decoder_layers=2,
    )
    rng = np.random.default_rng(0)
    values = {
        path: rng.normal(size=shape).astype(np.float32) / 3
        for path, shape in shapes_of(config).items()
    }
    return conversion.Source("memory", config, 3, values.__getitem__)


def _targets(batch):
    inputs, _, outputs = batch
    outputs = outputs.copy()
    outputs[2, 4:] = 0
    return inputs, outputs


def _compare(source, made, formats, batch, dtype=FLOAT32):
    return verification.compare(source, made, formats, *_targets(batch), dtype)


def test_scores_are_those_of_torch_logits(hf_model, hf_folder, torch_logits, batch):
    inputs, outputs = _targets(batch)
    source = conversion.open_source("hf", hf_folder)
    logits = torch_logits(hf_model[0], inputs, batch[1])
    expected = np.take_along_axis(jax.nn.log_softmax(logits), outputs[..., None], axis=-1)[..., 0]
    got = token_scores(source, inputs, outputs, FLOAT32)
    np.testing.assert_allclose(got, np.where(outputs > 0, expected, 0), atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_a_right_conversion_is_the_same(square, tmp_path, batch, tied, dtype):
    config = dataclasses.replace(square.config, logits_via_embedding=tied)
    source = dataclasses.replace(square, config=config)
    made = conversion.convert(source, "hf", tmp_path / "hf", dtype=dtype.name)
    found = _compare(source, made, ("recllm", "hf"), batch, dtype)
    assert found.readers == ("our network", "torch")
    assert found.tokens == 16
    assert found.is_small, found
    again = conversion.convert(made, "t5x", tmp_path / "t5x", dtype=dtype.name)
    assert _compare(made, again, ("hf", "t5x"), batch, dtype).is_small


def test_rounding_alone_is_a_difference(square, tmp_path, batch):
    made = conversion.convert(square, "recllm", tmp_path / "ours", dtype="bfloat16")
    assert not _compare(square, made, ("recllm", "recllm"), batch, FLOAT32).is_small


_PATH = "decoder/layers_1/encoder_decoder_attention/key/kernel"


def test_a_transposed_matrix_is_found(square, tmp_path, batch):
    def read(path):
        return square.read(path).T if path == _PATH else square.read(path)

    wrong = dataclasses.replace(square, read=read)
    made = conversion.convert(wrong, "t5x", tmp_path / "t5x")
    assert not _compare(square, made, ("recllm", "t5x"), batch).is_small


def test_torch_finds_what_is_wrong_in_reading_and_writing(square, tmp_path, batch, monkeypatch):
    right = hugging_face_folder.parameter_names

    def wrong(config):
        names = right(config)
        return {**names, _PATH: (names[_PATH][0], not names[_PATH][1])}

    monkeypatch.setattr(hugging_face_folder, "parameter_names", wrong)
    made = conversion.convert(square, "hf", tmp_path / "hf")
    assert not _compare(square, made, ("recllm", "hf"), batch).is_small
    monkeypatch.setattr(verification, "_torch_fits", lambda _: False)
    assert _compare(square, made, ("recllm", "hf"), batch).is_small


def test_what_is_not_a_number_is_not_the_same(square, tmp_path, batch):
    nan = dataclasses.replace(square, read=lambda path: square.read(path) * np.float32("nan"))
    made = conversion.convert(nan, "recllm", tmp_path / "ours")
    assert not _compare(square, made, ("recllm", "recllm"), batch).is_small


def test_the_command_verifies_a_run(run_dir, hf_folder, tmp_path, capsys, monkeypatch):
    arguments = ["convert", "--from", "recllm", "--verify", run_dir]
    assert cli.main([*arguments, "--to", "hf", str(tmp_path / "hf")]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "the same: " in shown
    assert "target by torch: largest difference" in shown

    monkeypatch.setattr(verification, "TOLERANCE", -1.0)
    assert cli.main([*arguments, "--to", "t5x", str(tmp_path / "t5x")]) == 1
    assert "NOT the same: " in capsys.readouterr().err

    arguments = ["convert", "--from", "hf", "--to", "recllm", "--verify", str(hf_folder)]
    assert cli.main([*arguments, str(tmp_path / "x")]) == 2
    assert "name it with --vocabulary" in capsys.readouterr().err
    vocabulary = ["--vocabulary", f"{run_dir}/vocabulary.model"]
    assert cli.main([*arguments, str(tmp_path / "x"), *vocabulary]) == 2
    assert "expected at most 60" in capsys.readouterr().err
