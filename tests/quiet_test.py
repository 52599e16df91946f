"""Nothing but our own lines on standard error, in commands, tools and Python."""

import os
import subprocess
import sys
import textwrap


def _python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs a program without the settings of the test run."""
    mine = ("TF_CPP_MIN_LOG_LEVEL", "GRPC_VERBOSITY")
    kept = {name: value for name, value in os.environ.items() if name not in mine}
    return subprocess.run(
        [sys.executable, "-W", "default::DeprecationWarning:recllm_tasks", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**kept, **environment},
    )


_PROGRAM = """
from recllm_tasks.recommender import Recommender
import importlib.resources, jax, seqio, tensorflow, tensorflow_datasets
tensorflow.constant(1)
jax.numpy.ones(2)
# The module keeps its own loader, which packages ask for their resources.
print(type(tensorflow.__spec__.loader).__name__)
print(importlib.resources.files("tensorflow").joinpath("__init__.py").is_file())
"""


def test_python_imports_quietly():
    done = _python(_PROGRAM)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["SourceFileLoader", "True"]


def test_an_import_that_fails_shows_what_was_written(tmp_path):
    broken = """
        import os
        os.write(2, b"a library is missing\\n")
        raise ImportError("broken")
    """
    (tmp_path / "tensorflow.py").write_text(textwrap.dedent(broken))
    done = _python("import recllm_tasks, tensorflow", PYTHONPATH=_path_with(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("a library is missing\n")
    assert "ImportError: broken" in done.stderr


def test_triton_is_loaded_before_tensorflow(tmp_path):
    """After it, Triton 3.7 kills the process; the tests' own imports show it where torch has it."""
    said = "import sys; print(__name__, 'tensorflow' in sys.modules, 'triton' in sys.modules)"
    for name in ("triton", "tensorflow"):
        (tmp_path / f"{name}.py").write_text(said)
    path = _path_with(tmp_path)
    done = _python("import recllm_tasks, tensorflow, triton", PYTHONPATH=path)
    assert done.stdout.splitlines() == ["triton False True", "tensorflow True True"]
    late = "import tensorflow; from recllm_tasks import quiet; quiet.keep_triton_out(); "
    done = _python(f"{late}import triton", PYTHONPATH=path)
    assert "ModuleNotFoundError" in done.stderr
    done = _python(f"import triton; {late}import triton", PYTHONPATH=path)
    assert done.returncode == 0


def _path_with(folder) -> str:
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_a_variable_of_the_user_is_kept():
    done = _python(
        "import os, recllm_tasks; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])",
        TF_CPP_MIN_LOG_LEVEL="0",
    )
    assert done.stdout == "0\n"
