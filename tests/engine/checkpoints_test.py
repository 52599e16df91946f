"""Checkpoints: what is written is read, and damage is reported in words."""

import pathlib
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recllm_tasks.engine.checkpoints import LAST, Checkpoints
from recllm_tasks.errors import UserError

STATE = {"params": {"kernel": jnp.arange(6.0).reshape(2, 3), "scale": jnp.ones(4)}}


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """MODEL_DIR with one checkpoint."""
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(LAST, 7, STATE)
    checkpoints.close()
    return tmp_path


def _restore(folder, how):
    checkpoints = Checkpoints(str(folder))
    try:
        if how == "whole":
            return checkpoints.restore(LAST, like=STATE)["params"]
        return checkpoints.restore_params(LAST, like=STATE["params"])
    finally:
        checkpoints.close()


@pytest.mark.parametrize("how", ["whole", "parameters"])
def test_a_cut_or_missing_file_is_reported_or_not_needed(folder, how):
    np.testing.assert_array_equal(_restore(folder, how)["kernel"], STATE["params"]["kernel"])
    reported = 0
    for path in [p for p in (folder / LAST / "7").rglob("*") if p.is_file()]:
        raw = path.read_bytes()
        for damage in (lambda p, raw=raw: p.write_bytes(raw[: len(raw) // 2]), pathlib.Path.unlink):
            damage(path)
            try:
                found = _restore(folder, how)
            except UserError:
                reported += 1
            else:
                np.testing.assert_array_equal(found["kernel"], STATE["params"]["kernel"])
            path.write_bytes(raw)
    assert reported >= 4


def test_a_full_disk_is_reported_and_the_last_state_stays(folder):
    """Here a limit on the size of files stands for it, which fails writes the same way."""
    large = {"params": {"kernel": jax.random.normal(jax.random.key(0), (300, 300))}}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(str(folder), writes=True) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            with pytest.raises(UserError, match=r"state of step 8 in .*checkpoints'.* too large'"):
                checkpoints.save(LAST, 8, large)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert checkpoints.latest_step(LAST) == 7
        checkpoints.save(LAST, 8, large)
    with Checkpoints(str(folder), writes=True) as checkpoints:
        assert checkpoints.latest_step(LAST) == 8


def test_a_state_that_is_there_already_is_replaced(folder):
    other = {"params": {"kernel": 2 * STATE["params"]["kernel"], "scale": jnp.zeros(4)}}
    with Checkpoints(str(folder), writes=True) as checkpoints:
        checkpoints.save(LAST, 7, other)
    np.testing.assert_array_equal(_restore(folder, "whole")["scale"], jnp.zeros(4))
