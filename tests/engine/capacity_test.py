"""Estimated memory beside what the TPU compiler found (README, "What fits where")."""

import dataclasses
from pathlib import Path

import gin
import pytest

from recllm_tasks.engine import capacity
from recllm_tasks.models import network

GIN = Path(__file__).resolve().parents[2] / "gin" / "models"

pytestmark = pytest.mark.usefixtures("clean_gin")


def _config(name):
    gin.parse_config_files_and_bindings(
        [str(GIN / f"{name}.gin")], ["DROPOUT_RATE = 0.1"], finalize_config=False
    )
    return gin.get_configurable(network.T5Config)()


@pytest.mark.parametrize(
    ("model", "rows", "model_parallel", "compiled"),
    [
        ("flan_t5_base", 8, 1, 12.24),
        ("flan_t5_base", 16, 1, 21.53),
        ("flan_t5_xl", 8, 4, 7.23),
        ("flan_t5_xl", 16, 4, 10.54),
        ("flan_t5_xl", 4, 4, 6.04),
    ],
)
def test_estimates_are_near_the_compilers(model, rows, model_parallel, compiled):
    config = _config(model)
    found = capacity.training_bytes(
        config, rows, 1024, 256, remat=config.remat, model_parallel=model_parallel
    )
    assert found / 1e9 == pytest.approx(compiled, rel=0.2)


def test_the_largest_batch_fits_and_twice_as_many_rows_do_not():
    config = _config("flan_t5_base")
    rows = capacity.largest_batch(config, 16e9, 1024, 256, remat=False)
    assert 0 < rows < 64
    for number, fits in ((rows, True), (2 * rows, False)):
        needed = capacity.training_bytes(config, number, 1024, 256, remat=False)
        assert (needed <= 16e9 * capacity.USABLE) == fits
    assert capacity.largest_batch(config, 1e9, 1024, 256, remat=True) == 0
    wider = dataclasses.replace(config, emb_dim=1024)
    assert capacity.num_parameters(wider) > capacity.num_parameters(config)


@pytest.mark.parametrize(("model", "millions"), [("small", 77), ("base", 248), ("xl", 2850)])
def test_parameters_are_those_of_the_gin_files(model, millions):
    assert round(capacity.num_parameters(_config(f"flan_t5_{model}")) / 1e6) == pytest.approx(
        millions, abs=1
    )


@pytest.mark.parametrize(
    ("kind", "memory", "peak"),
    [
        ("NVIDIA H200", 141, 989),
        ("NVIDIA H100 80GB HBM3", 80, 989),
        ("NVIDIA H100 PCIe", 80, 756),
        ("NVIDIA A100-SXM4-40GB", 40, 312),
        ("NVIDIA A100-SXM4-80GB", 80, 312),
        ("NVIDIA L40S", 48, 362),
        ("NVIDIA L40", 48, 181),
        ("TPU v5 lite", 16, 197),
        ("TPU v5e", 16, 197),
        ("TPU v5", 95, 459),
        ("TPU v6 lite", 32, 918),
    ],
)
def test_a_device_is_known_by_its_kind(kind, memory, peak):
    found = capacity.chip_of(kind)
    assert (found.memory, found.peak) == (memory, peak)
    assert found.source


@pytest.mark.parametrize("kind", ["cpu", "Tesla T4", "NVIDIA GH200 480GB", "NVIDIA L400"])
def test_another_device_is_unknown(kind):
    assert capacity.chip_of(kind) is None
