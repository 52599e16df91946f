"""Loading a run: what does not fit it is refused."""

import pytest

from recllm_tasks.engine import saved_run
from recllm_tasks.errors import UserError
from recllm_tasks.runs.run_folder import Run


def test_an_unknown_field_of_the_network_is_reported(tmp_path):
    run = Run(
        mixture="toys_ut",
        dataset="toys",
        fingerprint="a" * 64,
        lengths={"inputs": 8, "targets": 4},
        network={"no_such": 1},
        seed=0,
        model="tiny",
    )
    run.save(str(tmp_path))
    with pytest.raises(UserError, match=r"Network of the run .*no_such"):
        saved_run.load(str(tmp_path))


def test_another_vocabulary_than_the_runs_is_refused(tmp_path, clean_gin):
    import gin

    for name, text in (("own", "1"), ("copy", "1"), ("other", "2")):
        (tmp_path / name).write_text(text)
    gin.bind_parameter("vocabulary.sentencepiece_file.path", str(tmp_path / "copy"))
    saved_run.check_vocabulary(str(tmp_path / "own"))
    gin.bind_parameter("vocabulary.sentencepiece_file.path", str(tmp_path / "other"))
    with pytest.raises(UserError, match="expected the run's own"):
        saved_run.check_vocabulary(str(tmp_path / "own"))
