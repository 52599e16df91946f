"""T5X's checkpoints, Orbax and legacy, against the fields and against T5X's own restore."""

import importlib
import json
import pathlib
import types

import jax
import numpy as np
import pytest
import tensorstore as ts
from flax import serialization, traverse_util

from recllm_tasks.errors import UserError
from recllm_tasks.models.formats import conversion, t5x_legacy
from recllm_tasks.models.formats.parameters import shapes_of
from recllm_tasks.t5x_bridge import imports

LAYOUTS = ("t5x", "t5x_legacy")


@pytest.fixture(scope="module")
def made(hf_folder, tmp_path_factory) -> dict[str, pathlib.Path]:
    """The random T5 as T5X's checkpoint of step 9, in both layouts; not to be written to."""
    source = conversion.open_source("hf", hf_folder)
    folders = {name: tmp_path_factory.mktemp(name) / "model" for name in LAYOUTS}
    for name, folder in folders.items():
        conversion.convert(source, name, folder, step=9)
    return folders


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_nothing_changes(made, layout, hf_folder, tmp_path, parameters_of):
    source = conversion.open_source("t5x", made[layout])
    assert source.step == 9
    assert source.where == str(made[layout] / "checkpoint_9")
    back = conversion.convert(source, "hf", tmp_path / "hf")
    expected = parameters_of(conversion.open_source("hf", hf_folder))
    for path, array in parameters_of(back).items():
        np.testing.assert_array_equal(array, expected[path])


def test_the_legacy_layout_is_the_published_one(made):
    """Fields as in gs://t5-data/pretrained_models/t5x/flan_t5_*/checkpoint_*."""
    folder = made["t5x_legacy"] / "checkpoint_9"
    content = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    assert content["version"] == 3
    assert content["optimizer"]["state"] == {"step": 9, "param_states": {}}
    leaf = content["optimizer"]["target"]["decoder"]["logits_dense"]["kernel"]
    assert leaf["kvstore"] == {"driver": "file", "path": "target.decoder.logits_dense.kernel"}
    metadata = json.loads((folder / leaf["kvstore"]["path"] / ".zarray").read_text())
    assert metadata["shape"] == leaf["metadata"]["shape"] == [24, 60]
    assert metadata["zarr_format"] == 2


def test_gzip_other_drivers_and_arrays_within_msgpack_are_read(made, tmp_path, parameters_of):
    """As published: written on GCS, compressed with gzip; T5X keeps small arrays in msgpack."""
    source = conversion.open_source("t5x", made["t5x_legacy"])
    folder = tmp_path / "checkpoint_3"
    folder.mkdir()
    target = {}
    for number, (path, array) in enumerate(parameters_of(source).items()):
        name = f"target.{path.replace('/', '.')}"
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{folder}/{name}"},
            "metadata": {"compressor": {"id": "gzip", "level": 1}, "chunks": [7] * array.ndim},
        }
        ts.open(spec, create=True, dtype="float32", shape=array.shape).result().write(
            array
        ).result()
        kept = {"driver": "gcs", "bucket": "t5x-dummy-bucket", "path": name}
        old = {"driver": "zarr", "kvstore": {"driver": "gcs"}, "path": name}
        leaves = (array, {**spec, "kvstore": kept}, old)
        target[tuple(path.split("/"))] = leaves[number % 3]
    state = {"target": traverse_util.unflatten_dict(target), "state": {"step": np.int32(3)}}
    packed = serialization.msgpack_serialize({"version": 3, "optimizer": state})
    (folder / "checkpoint").write_bytes(packed)
    found = conversion.open_source("t5x", folder)
    assert found.step == 3
    for path, array in parameters_of(source).items():
        np.testing.assert_array_equal(found.read(path), array)


def _copy(folder: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        (to / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (to / path.relative_to(folder)).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cut_or_missing_file_is_reported(made, layout, tmp_path, parameters_of):
    folder = _copy(made[layout], tmp_path / "copy") / "checkpoint_9"
    expected = parameters_of(conversion.open_source("t5x", made[layout]))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    reported = 0
    for path in files[:: max(1, len(files) // 25)]:
        raw = path.read_bytes()
        for damage in (lambda p, raw=raw: p.write_bytes(raw[: len(raw) // 2]), pathlib.Path.unlink):
            damage(path)
            try:
                found = parameters_of(conversion.open_source("t5x", folder))
            except UserError:
                reported += 1
            else:  # an old node of OCDBT's tree, which nothing points to
                for name, array in found.items():
                    np.testing.assert_array_equal(array, expected[name])
            path.write_bytes(raw)
    assert reported >= 4


def test_arrays_that_do_not_fit_are_named(made, tmp_path):
    folder = _copy(made["t5x_legacy"], tmp_path / "copy") / "checkpoint_9"
    content = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    target = content["optimizer"]["target"]
    layers = target["encoder"]
    layers["layers_7"] = layers.pop("layers_1")
    target["odd"] = np.ones(3)
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    with pytest.raises(UserError, match=r"missing: encoder/layers_1/.* more; unexpected: .*odd"):
        conversion.open_source("t5x", folder)
    target["decoder"] = layers["relpos_bias"]
    target["encoder"] = {"layers": layers}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    with pytest.raises(UserError, match=r"No T5 in .*without scanned layers"):
        conversion.open_source("t5x", folder)


@pytest.mark.parametrize("place", ["../outside", "/etc", ""])
def test_an_array_outside_of_the_checkpoint_is_refused(made, tmp_path, place):
    folder = _copy(made["t5x_legacy"], tmp_path / "copy") / "checkpoint_9"
    content = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    table = content["optimizer"]["target"]["token_embedder"]["embedding"]
    table["kvstore"]["path"] = place
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    with pytest.raises(UserError, match=rf"got the path '.?{place}'"):
        conversion.open_source("t5x", folder)


def test_a_folder_without_a_checkpoint_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match=r"got no checkpoint_<step>, expected one with a file"):
        conversion.open_source("t5x", tmp_path)


@pytest.fixture(scope="module")
def t5x():
    """T5X's modules; skips where it cannot be imported."""
    try:
        imports.prepare()
    except UserError as error:
        pytest.skip(f"{error}; then T5X_DIR=<checkout> launch/test.sh -m t5x")
    names = ("adafactor", "checkpoints", "models", "partitioning", "utils")
    modules = {name: importlib.import_module(f"t5x.{name}") for name in names}
    network = importlib.import_module("t5x.examples.t5.network")
    return types.SimpleNamespace(network=network, **modules)


@pytest.fixture(scope="module")
def t5x_run(t5x, hf_model):
    """(initialiser, partitioner, model) of T5X for the random T5's sizes, its own network in it."""
    return _t5x_run(t5x, hf_model[1].config)


def _t5x_run(t5x, config):
    sizes = {
        name: getattr(config, name)
        for name in ("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim")
    }
    sizes |= {f"num_{s}_layers": getattr(config, f"num_{s}_layers") for s in ("encoder", "decoder")}
    module = t5x.network.Transformer(
        t5x.network.T5Config(**sizes, mlp_activations=("gelu", "linear"), dropout_rate=0.0)
    )
    rules = t5x.adafactor.standard_logical_factor_rules()
    optimizer = t5x.adafactor.Adafactor(1e-3, logical_factor_rules=rules)
    model = t5x.models.EncoderDecoderModel(module, None, None, optimizer)
    partitioner = t5x.partitioning.PjitPartitioner(num_partitions=1)
    tokens = dict.fromkeys(("encoder_input_tokens", "decoder_input_tokens"), (1, 4))
    initialiser = t5x.utils.TrainStateInitializer(
        optimizer_def=optimizer,
        init_fn=model.get_initial_variables,
        input_shapes={**tokens, "decoder_target_tokens": (1, 4)},
        partitioner=partitioner,
    )
    return initialiser, partitioner, model


def _restored(t5x, run, path):
    """As t5x/train.py restores for fine-tuning from a checkpoint without an optimizer's state."""
    initialiser, partitioner, _ = run
    config = t5x.utils.RestoreCheckpointConfig(
        path=str(path),
        mode="specific",
        dtype="float32",
        fallback_to_scratch=True,
        assignment_map=((r"state/param_states.*", None),),
    )
    state, _ = t5x.utils.create_checkpoint_manager_and_restore(
        initialiser, partitioner, config, str(path), jax.random.key(0), use_orbax=True
    )
    return state


def _t5x_logits(run, state, batch):
    inputs, shifted, outputs = batch
    return run[2].module.apply(
        {"params": state.params}, inputs, shifted, outputs, enable_dropout=False
    )


@pytest.mark.t5x
@pytest.mark.parametrize("layout", LAYOUTS)
def test_t5x_restores_what_was_converted(t5x, t5x_run, made, layout, hf_model, torch_logits, batch):
    state = _restored(t5x, t5x_run, made[layout] / "checkpoint_9")
    assert int(state.step) == 9
    expected = torch_logits(hf_model[0], *batch[:2])
    np.testing.assert_allclose(_t5x_logits(t5x_run, state, batch), expected, atol=1e-4)


@pytest.mark.t5x
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_t5x_saves_is_converted(t5x, t5x_run, layout, tmp_path, torch_logits, batch):
    initialiser, partitioner, _ = t5x_run
    state = initialiser.from_scratch(jax.random.key(3)).replace_step(jax.numpy.int32(11))
    (tmp_path / "run").mkdir()
    if layout == "t5x":
        manager = t5x.checkpoints.OrbaxCheckpointManagerInterface(
            str(tmp_path / "run"), state, partitioner
        )
        manager.save(state)
        manager.close()
    else:
        t5x.checkpoints.Checkpointer(state, partitioner, str(tmp_path / "run")).save(state)
    source = conversion.open_source("t5x", tmp_path / "run")
    assert source.step == 11
    assert len(shapes_of(source.config)) == len(jax.tree.leaves(state.params))
    conversion.convert(source, "hf", tmp_path / "hf")
    expected = _t5x_logits(t5x_run, state, batch)
    np.testing.assert_allclose(torch_logits(tmp_path / "hf", *batch[:2]), expected, atol=1e-4)


@pytest.mark.parametrize("content", [[1, 2], {"version": 3}, {"optimizer": [1]}])
def test_msgpack_of_something_else_is_reported(made, tmp_path, content):
    folder = _copy(made["t5x_legacy"], tmp_path / "copy") / "checkpoint_9"
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    with pytest.raises(UserError, match=r"Damaged checkpoint '.*checkpoint': got no 'optimizer'"):
        conversion.open_source("t5x", folder)


def test_our_own_error_is_not_a_damaged_checkpoint(made, monkeypatch):
    monkeypatch.setattr(t5x_legacy.traverse_util, "flatten_dict", lambda *_, **__: len(None))
    with pytest.raises(TypeError, match="has no len"):
        conversion.open_source("t5x", made["t5x_legacy"] / "checkpoint_9")
