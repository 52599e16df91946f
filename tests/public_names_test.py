"""The public names of the package, which are imported on first use."""

import subprocess
import sys

import pytest

import recllm_tasks

# `import recllm_tasks` loads none of these: architecture_test.py, work_at_import.
HEAVY = ("jax", "numpy", "seqio", "tensorflow")


@pytest.mark.parametrize("name", sorted({*recllm_tasks.__all__} - {"unbatch"}))
def test_each_public_name_resolves(name):
    found = getattr(recllm_tasks, name)
    assert found.__name__ == name
    assert name in dir(recllm_tasks)


def test_an_unknown_name_raises():
    with pytest.raises(AttributeError, match="has no attribute 'Recomender'"):
        recllm_tasks.Recomender  # noqa: B018
    with pytest.raises(ImportError):
        from recllm_tasks import Recomender  # noqa: F401


def test_names_are_imported_on_first_use():
    program = (
        "import sys, recllm_tasks; dir(recllm_tasks)\n"
        f"assert not {{*{HEAVY}}} & sys.modules.keys()\n"
        "from recllm_tasks import Items\n"
        "assert 'recllm_tasks.prompts.templates' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_table_of_names_is_complete():
    assert sorted(recllm_tasks._MODULE_OF) == sorted(recllm_tasks.__all__)
