"""T5's relatives as transformers saves them: its own class of each says what its logits are."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import transformers
from flax import traverse_util

from recllm_tasks import cli
from recllm_tasks.engine import train_step
from recllm_tasks.errors import UserError
from recllm_tasks.models.formats import conversion, verification
from recllm_tasks.models.formats.parameters import shapes_of
from recllm_tasks.models.formats.scores import token_scores
from recllm_tasks.models.hugging_face import parameter_names
from recllm_tasks.models.network import Transformer

FLOAT32 = np.dtype(np.float32)
SIZES = {"vocab_size": 60, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 4}
T5, MT5 = (
    (transformers.T5Config, transformers.T5ForConditionalGeneration),
    (transformers.MT5Config, transformers.MT5ForConditionalGeneration),
)
TABLES = ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")


def _model(kind, *, has_head=False, **settings):
    config, model = kind
    torch.manual_seed(0)
    made = model(config(**SIZES, decoder_start_token_id=0, **settings)).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(0, 0.5)
        if has_head:
            made.lm_head.weight = torch.nn.Parameter(torch.randn_like(made.lm_head.weight))
    return made


def _change(folder: pathlib.Path, file: str = "config.json", **fields) -> None:
    """Sets fields of a JSON file; None removes one."""
    stored = json.loads((folder / file).read_text()) | fields
    stored = {name: value for name, value in stored.items() if value is not None}
    (folder / file).write_text(json.dumps(stored))


def _rename_table(folder: pathlib.Path, *names: str) -> None:
    """Stores the shared table under other names."""
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    table = arrays.pop("shared.weight")
    arrays |= {f"{name}.weight": table for name in names}
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})


def _resized(folder):
    model = _model(T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model.resize_token_embeddings(72)
    model.save_pretrained(folder)


def _published(kind, **settings):
    """With a head of its own, and a configuration of transformers 4."""

    def make(folder):
        _model(kind, has_head=True, feed_forward_proj="gated-gelu", **settings).save_pretrained(
            folder
        )
        _change(
            folder,
            tie_word_embeddings=False,
            scale_decoder_outputs=None,
            transformers_version="4.46.0",
        )

    return make


def _saved(kind, change=None, dtype=None, **settings):
    def make(folder):
        model = _model(kind, **settings)
        (model.to(dtype) if dtype else model).save_pretrained(folder, max_shard_size="20KB")
        if change:
            change(folder)

    return make


def _by_save_model(folder):
    model = _model(T5)
    model.config.save_pretrained(folder)
    safetensors.torch.save_model(model, str(folder / "model.safetensors"))


def _under(*names):
    def make(folder):
        _model(T5).save_pretrained(folder)
        _rename_table(folder, *names)

    return make


def _unused_bias(folder):
    _model(T5).save_pretrained(folder)
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    arrays[name] = np.ones((32, 4), np.float32)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})


READ = {
    "mt5 tied": _saved(MT5),
    "mt5 with a head": _saved(MT5, has_head=True),
    "mt5 published": _published(MT5),
    "mt5 of few fields": _saved(MT5, lambda f: _change(f, feed_forward_proj=None)),
    "mt5 bfloat16": _saved(MT5, dtype=torch.bfloat16),
    "t5 1.0": _saved(T5),
    "t5 1.0 of transformers 4": _saved(T5, lambda f: _change(f, scale_decoder_outputs=None)),
    "t5 of few fields": _saved(
        T5, lambda f: _change(f, feed_forward_proj=None, num_decoder_layers=None)
    ),
    "t5 1.1": _saved(T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "t5 1.1 published": _published(T5),
    "t5 scaled with a head": _saved(T5, has_head=True),
    "t5 float16": _saved(T5, dtype=torch.float16),
    "t5 silu": _saved(T5, feed_forward_proj="gated-silu"),
    "t5 gated relu": _saved(T5, feed_forward_proj="gated-relu"),
    "t5 of unequal stacks": _saved(T5, num_decoder_layers=2),
    "t5 with more tokens": _resized,
    "t5 by save_model": _by_save_model,
    "t5 encoder's name": _under("encoder.embed_tokens"),
    "t5 head's name": _under("lm_head"),
    "t5 every name": _under(*TABLES),
    "t5 with an unused bias": _unused_bias,
}


def _targets(batch):
    inputs, _, outputs = batch
    return inputs, outputs


@pytest.mark.parametrize("name", READ)
def test_log_probabilities_are_those_of_the_models_own_class(name, tmp_path, batch):
    folder = tmp_path / "source"
    READ[name](folder)
    source = conversion.open_source("hf", folder)
    theirs = verification._torch_scores(source, *_targets(batch), FLOAT32)
    ours = token_scores(source, *_targets(batch), FLOAT32)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    made = conversion.convert(source, "hf", tmp_path / "hf")
    back = verification._torch_scores(made, *_targets(batch), FLOAT32)
    np.testing.assert_allclose(back, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_of_t5_1_0_are_those_of_its_class(tmp_path, batch, monkeypatch):
    """Its table is read by both stacks and by the logits; of T5 1.1, see network_test.py."""
    monkeypatch.setattr(train_step, "Z_LOSS", 0.0)
    folder = tmp_path / "source"
    READ["t5 1.0"](folder)
    inputs, shifted, targets = batch
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    rows = {"input_ids": inputs, "attention_mask": inputs > 0, "decoder_input_ids": shifted}
    logits = theirs(**{key: torch.tensor(value) for key, value in rows.items()}).logits
    torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), torch.tensor(targets).reshape(-1)
    ).backward()
    source = conversion.open_source("hf", folder)
    flat = {path: jnp.asarray(source.read(path)) for path in shapes_of(source.config)}
    rows = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": targets,
    }

    @jax.grad
    def gradient(params):
        measured = train_step.measure(Transformer(source.config), params, rows, None)
        return measured.total_loss

    ours = gradient(traverse_util.unflatten_dict(flat, sep="/"))
    grads = {key: weight.grad.numpy() for key, weight in theirs.named_parameters()}
    names = parameter_names(source.config)
    found = traverse_util.flatten_dict(ours, sep="/")
    assert source.config.logits_via_embedding
    assert len(found) == len(grads)
    for path, value in found.items():
        key, transposed = names[path]
        expected = grads[key].T if transposed else grads[key]
        np.testing.assert_allclose(value, expected, rtol=2e-3, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("target", ["recllm", "t5x"])
def test_a_tied_mt5_is_the_same_in_every_format_and_dtype(target, tmp_path, batch):
    READ["mt5 tied"](tmp_path / "source")
    source = conversion.open_source("hf", tmp_path / "source")
    for dtype, numpy in conversion.DTYPES.items():
        made = conversion.convert(source, target, tmp_path / dtype, dtype=dtype)
        found = verification.compare(source, made, ("hf", target), *_targets(batch), numpy)
        assert found.readers == ("torch", "our network")
        assert found.largest < 1e-5


def test_verify_does_not_share_what_reading_assumes(tmp_path, batch, monkeypatch):
    READ["mt5 tied"](tmp_path / "source")
    monkeypatch.setattr(
        "recllm_tasks.models.formats.hugging_face_folder._is_scaled", lambda *_: True
    )
    source = conversion.open_source("hf", tmp_path / "source")
    made = conversion.convert(source, "recllm", tmp_path / "made")
    assert not verification.compare(
        source, made, ("hf", "recllm"), *_targets(batch), FLOAT32
    ).is_small


def _renamed(kind):
    return _saved(T5, lambda f: _change(f, model_type=kind))


def _encoder(folder):
    transformers.T5EncoderModel(transformers.T5Config(**SIZES)).save_pretrained(folder)


def _byt5(folder):
    _model(T5).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')


def _pickle(folder):
    _model(T5).save_pretrained(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _shard_without_head(folder):
    _model(T5, has_head=True).save_pretrained(folder, max_shard_size="20KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    file = folder / index["lm_head.weight"]
    arrays = safetensors.numpy.load_file(file)
    del arrays["lm_head.weight"]
    safetensors.numpy.save_file(arrays, file, metadata={"format": "pt"})


def _old_tied_mt5(folder):
    _model(MT5).save_pretrained(folder)
    _change(folder, tie_word_embeddings=True, transformers_version="4.46.0")


REFUSED = {
    "umt5": (_renamed("umt5"), r"got a umt5, whose every layer has position biases of its own"),
    "longt5": (_renamed("longt5"), r"got model_type 'longt5', expected a T5 or mT5"),
    "nothing": (_renamed(None), r"got no model_type, expected a T5 or mT5"),
    "byt5": (_byt5, r"got a ByT5, which reads bytes"),
    "encoder": (_encoder, r"got an encoder without a decoder .* save the whole model"),
    "pickle": (_pickle, r"pytorch_model.bin': got a pickle, .* expected model.safetensors"),
    "exact gelu": (
        _saved(T5, feed_forward_proj="gelu"),
        r"got feed_forward_proj 'gelu', expected a T5 or mT5 with feed_forward_proj relu or",
    ),
    "shard": (_shard_without_head, r"missing: lm_head.weight; "),
    "old tied mt5": (_old_tied_mt5, r'of transformers 4.46.0.* add "scale_decoder_outputs": true'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_t5_is_refused_by_name(name, tmp_path):
    make, message = REFUSED[name]
    make(tmp_path / "source")
    with pytest.raises(UserError, match=message):
        conversion.open_source("hf", tmp_path / "source")


def test_an_old_tied_mt5_is_read_as_the_file_says(tmp_path, batch):
    _old_tied_mt5(tmp_path / "source")
    for is_scaled in (True, False):
        _change(tmp_path / "source", scale_decoder_outputs=is_scaled)
        source = conversion.open_source("hf", tmp_path / "source")
        assert source.config.logits_via_embedding is is_scaled


def test_the_command_says_where_nobody_else_has_read(run_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verification, "_torch_fits", lambda _: False)
    arguments = ["convert", "--from", "recllm", "--to", "hf", "--verify", run_dir]
    assert cli.main([*arguments, str(tmp_path / "hf")]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "by our network alone" in shown
    assert "pip install torch transformers" in shown
    shutil.rmtree(tmp_path / "hf")
