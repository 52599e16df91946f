"""The memory planner: a compiler's estimates for a small model, and the arithmetic."""

import importlib.util
from pathlib import Path

import jax
import pytest

_PATH = Path(__file__).resolve().parents[2] / "tools" / "plan_memory.py"
_SPEC = importlib.util.spec_from_file_location("plan_memory", _PATH)
plan_memory = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(plan_memory)

pytestmark = pytest.mark.usefixtures("clean_gin")

TINY_PARAMETERS = 721_856


@pytest.mark.slow
def test_a_small_model_is_compiled_and_reported(monkeypatch):
    """Half a minute: 4 rows of 32 + 8 tokens, 2 beams over 20 items, on one device of 0.1 GB."""
    small = {"LENGTHS": {"encoder": 32, "decoder": 8}, "DECODE_BATCH": 2, "BEAMS": 2}
    small |= {"CATALOG": 20, "ID_TOKENS": 2}
    small |= {"ACCELERATORS": (plan_memory.Accelerator("one", 1, 0.1, 2.0),)}
    for name, value in small.items():
        monkeypatch.setattr(plan_memory, name, value)
    needs = []
    row = plan_memory.memory_row
    monkeypatch.setattr(plan_memory, "memory_row", lambda *a: (needs.append(a[-1]), row(*a))[1])

    args = plan_memory.parse_arguments(["--model=tiny"])
    assert (args.batch, args.steps) == (4, 14_000)
    text = "\n".join(plan_memory.report(args, lambda _: (jax.devices()[:1], "CPU")))
    assert "| one | 1x1 | CPU | train step | 0.00 | " in text
    assert "14,000 steps" in text
    train, beam = needs
    assert train.parameters == beam.parameters == 4 * TINY_PARAMETERS
    # Adafactor keeps a row and a column of a large matrix, but all of a small one.
    assert 0 < train.optimizer < train.parameters / 4
    assert beam.optimizer == 0
    # The gradient is as large as the parameters.
    assert train.temporary > train.parameters
    assert train.peak > train.parameters + train.optimizer + train.temporary
    # Six operations per token and parameter outside the embedding, plus attention.
    matrices = TINY_PARAMETERS - 4096 * 128
    least = 6 * (4 * 32 * 0.4 * matrices + 4 * 8 * (0.6 * matrices + 4096 * 128))
    assert least < train.flops < 3 * least
    assert beam.flops < train.flops


def test_extrapolation_goes_through_both_models():
    two, four = plan_memory.Need(*range(6)), plan_memory.Need(*range(10, 16))
    assert two.toward(four, 1) == four
    assert two.toward(four, 5) == plan_memory.Need(*(n + 50 for n in range(6)))


def test_memory_that_decreases_with_more_layers_is_unknown(monkeypatch):
    pair = (1e9, 0, 3e9, 4e9, 1e12, 0), (2e9, 0, 2e9, 4e9, 2e12, 0)
    needs = [plan_memory.Need(*values) for values in pair]
    monkeypatch.setattr(plan_memory, "compile_need", lambda *a: needs.pop(0))
    args = plan_memory.parse_arguments(["--model=flan_t5_base", "--layers=1,2"])
    need = plan_memory.need_of(args, None, None, None)
    assert (need.parameters, need.flops) == (12e9, 12e12)
    accelerator = plan_memory.Accelerator("eight", 8, 16, 10.0)
    row = plan_memory.memory_row(accelerator, (8, 1), "CPU", "train step", need)
    assert "| – | – | unknown |" in row


def test_a_row_names_the_compiled_layers(monkeypatch):
    monkeypatch.setattr(plan_memory, "need_of", lambda *a: plan_memory.Need(*[1e9] * 6))
    args = plan_memory.parse_arguments(["--model=flan_t5_base", "--layers=2,4", "--devices=16"])
    text = "\n".join(plan_memory.report(args, lambda _: (jax.devices()[:1], "CPU")))
    assert "| CPU, 2 and 4 layers | train step | 1.00 |" in text


def test_time_is_at_forty_percent_of_the_peak():
    args = plan_memory.parse_arguments(["--model=flan_t5_base"])
    need = plan_memory.Need(0, 0, 0, 0, 0.4 * 5e12, 0)
    eight = plan_memory.Accelerator("eight", 8, 16, 10.0)
    hours = 10_000 / 2 / 3600
    expected = f"| eight | 8x1 | 2.00 | {hours:.2f} | {8 * hours:.1f} |"
    assert plan_memory.time_row(args, eight, (8, 1), need) == expected


@pytest.mark.parametrize(("peak", "said"), [(14.3e9, "89%, fits"), (14.5e9, "91%, does not fit")])
def test_a_tenth_of_the_memory_is_left_to_the_runtime(peak, said):
    accelerator = plan_memory.Accelerator("eight", 8, 16, 10.0)
    need = plan_memory.Need(0, 2e6, 0, peak, 0, 0)
    row = plan_memory.memory_row(accelerator, (8, 1), "CPU", "train step", need)
    assert f"| {said} |" in row
    assert "| 2.0 |" in row, "the optimizer in MB"


@pytest.mark.parametrize("model", ["base", "xl"])
def test_the_gin_files_fill_every_accelerator(model):
    args = plan_memory.parse_arguments([f"--model=flan_t5_{model}"])
    assert args.accelerators == list(plan_memory.ACCELERATORS)
    for accelerator in args.accelerators:
        ((data, parallel),) = plan_memory.meshes(args, accelerator)
        assert parallel == {"base": 1, "xl": 4}[model]
        assert data * parallel == accelerator.devices


@pytest.mark.parametrize("options", [["--devices=5"], ["--devices=8", "--mesh=4x4"], ["--batch=3"]])
def test_options_that_match_no_accelerator_are_refused(options, capsys):
    with pytest.raises(SystemExit):
        plan_memory.parse_arguments(["--model=flan_t5_base", *options])
    assert "expected" in capsys.readouterr().err
