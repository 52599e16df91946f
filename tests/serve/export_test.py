"""The exported search, in a process that imports JAX alone."""

import json
import subprocess
import sys

import numpy as np

from recllm_tasks import cli

# The words of `recllm export --help`.
ALONE = """
import sys
import jax, jax.export, numpy as np
search = jax.export.deserialize(open("search.stablehlo", "rb").read()).call
arrays, example = (dict(np.load(f"{name}.npz")) for name in ("arrays", "example"))
given = [example[name] for name in ("inputs", "beginning", "bits", "before") if name in example]
tokens, log_probs, rows = search(arrays, *given)
assert not {"recllm_tasks", "flax", "tensorflow", "seqio"} & set(sys.modules)
np.savez("found.npz", tokens=tokens, log_probs=log_probs, rows=rows)
"""


def test_the_exported_search_gives_the_same_beams(run_dir, small_data_dir, tmp_path, capsys):
    from recllm_tasks.commands import export

    for line in ALONE.strip().splitlines()[1:5]:
        assert line in export.EPILOG
    out = tmp_path / "out"
    arguments = ["export", run_dir, "--data_dir", str(small_data_dir), "--output", str(out)]
    assert cli.main([*arguments, "-k", "5", "--batch_size", "2"]) == 0
    subprocess.run([sys.executable, "-c", ALONE], cwd=out, check=True)
    found, example = dict(np.load(out / "found.npz")), dict(np.load(out / "example.npz"))
    np.testing.assert_array_equal(found["rows"], example["rows_BxK"])
    np.testing.assert_array_equal(found["tokens"], example["tokens_BxKxT"])
    np.testing.assert_allclose(found["log_probs"], example["log_probs_BxK"], atol=1e-5)
    assert (np.isfinite(found["log_probs"]) & (found["log_probs"] < 0)).all()
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert len(items) == 36
    assert json.loads((out / "export.json").read_text())["shapes"]["inputs"] == [2, 512]
    capsys.readouterr()
    assert cli.main(arguments) == 2
    assert "choose another --output" in capsys.readouterr().err
