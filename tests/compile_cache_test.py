"""Compiled programs on disk: found by the next process, and never in the way of a run."""

import os
import subprocess
import sys

import pytest

from recllm_tasks import compile_cache

_COMPILE = """
import sys, time
from recllm_tasks import compile_cache
compile_cache.use_compile_cache()
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
events = []
jax.monitoring.register_event_listener(lambda name, **more: events.append(name))
print(float(jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((8, 8)))))
print(events.count("/jax/compilation_cache/cache_hits"))
"""


def _run(**environment) -> list[str]:
    """What a fresh process prints; without warnings or errors."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _COMPILE],
        env={**kept, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    value, hits = _run(XDG_CACHE_HOME=str(tmp_path))
    assert hits == "0"
    folder = tmp_path / "recllm_tasks" / "xla"
    entries = list(folder.glob("*/*-cache"))
    assert entries
    again = _run(XDG_CACHE_HOME=str(tmp_path))
    assert again[0] == value
    assert int(again[1]) == len(entries)
    # What a process that was killed leaves is compiled again, without a word.
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-10])
    assert _run(XDG_CACHE_HOME=str(tmp_path)) == [value, "0"]
    assert _run(XDG_CACHE_HOME=str(tmp_path), JAX_ENABLE_COMPILATION_CACHE="false")[1] == "0"


def test_without_a_folder_nothing_is_cached(tmp_path):
    (tmp_path / "recllm_tasks").write_text("a file")
    assert _run(XDG_CACHE_HOME=str(tmp_path))[1] == "0"


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    return monkeypatch


def test_the_folder_is_private_and_that_of_the_processor(environment, tmp_path):
    folder = compile_cache.default_folder()
    assert folder.parent == tmp_path / "cache" / "recllm_tasks" / "xla"
    compile_cache.use_compile_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    environment.setattr(compile_cache.platform, "machine", lambda: "another")
    assert compile_cache.default_folder() != folder
    environment.delenv("XDG_CACHE_HOME")
    environment.setenv("HOME", "/home/someone")
    assert str(compile_cache.default_folder()).startswith("/home/someone/.cache/recllm_tasks/xla/")


def test_jaxs_own_variable_comes_first(environment, tmp_path):
    environment.setenv("JAX_COMPILATION_CACHE_DIR", "/mine")
    compile_cache.use_compile_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/mine"
    assert not (tmp_path / "cache").exists()


# A program that has imported JAX, in the way of a notebook, and what its user has set.
_FROM_PYTHON = """
import sys
import jax
if sys.argv[1:]:
    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
import recllm_tasks
recllm_tasks.use_compile_cache()
print(jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)
"""


@pytest.mark.parametrize("given", [(), ("/mine",)])
def test_python_asks_for_it_after_jax_and_keeps_its_own_folder(environment, tmp_path, given):
    environment.delenv(compile_cache._SECONDS, raising=False)
    done = subprocess.run(
        [sys.executable, "-P", "-c", _FROM_PYTHON, *given],
        capture_output=True,
        text=True,
        check=True,
    )
    ours = f"{compile_cache.default_folder()} 0.1"
    assert done.stdout.strip() == ("/mine 1.0" if given else ours)
    assert (tmp_path / "cache").exists() != bool(given)


def test_a_folder_that_cannot_be_written_to_is_left_alone(environment):
    environment.setattr(os, "access", lambda *a: False)
    compile_cache.use_compile_cache()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_the_oldest_entries_are_removed(tmp_path):
    for number in range(4):
        path = tmp_path / f"{number}-cache"
        path.write_bytes(b"0" * 10)
        os.utime(path, (number, number))
    compile_cache.remove_oldest(tmp_path, 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-cache", "3-cache"]
