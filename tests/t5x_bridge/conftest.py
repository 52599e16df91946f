"""T5X where it can be imported, and runs of its programs in processes of their own."""

import os
import subprocess
import sys

import pytest

from recllm_tasks.errors import UserError
from recllm_tasks.t5x_bridge import imports

LENGTHS = {"inputs": 256, "targets": 16}
VERY_SMALL = [
    "--gin_file=models/tiny.gin",
    "--gin.network.T5Config.emb_dim=32",
    "--gin.network.T5Config.mlp_dim=64",
    "--gin.network.T5Config.num_heads=2",
    "--gin.network.T5Config.head_dim=16",
    "--gin.DROPOUT_RATE=0.0",
    f"--gin.TASK_FEATURE_LENGTHS={LENGTHS}",
]


@pytest.fixture(scope="session")
def t5x():
    """T5X, importable in this process; skips where it is not, and says what it needs."""
    try:
        return imports.prepare()
    except UserError as error:
        pytest.skip(f"{error}; then T5X_DIR=<checkout> launch/test.sh -m t5x")


@pytest.fixture(scope="session")
def start():
    """`launch_t5x`."""
    return launch_t5x


@pytest.fixture(scope="session", name="t5x_command")
def _t5x_command():
    """`t5x_command`."""
    return t5x_command


def t5x_command(program: str, *arguments: object) -> list[str]:
    """One of T5X's programs on the very small model."""
    command = [sys.executable, "-P", "-m", "recllm_tasks.t5x_bridge", program]
    return [*command, *VERY_SMALL, *map(str, arguments)]


def launch_t5x(program: str, *arguments: str, environment=None) -> subprocess.CompletedProcess:
    """Runs one of T5X's programs on the very small model."""
    return subprocess.run(
        t5x_command(program, *arguments),
        env={**os.environ, "JAX_PLATFORMS": "cpu", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
