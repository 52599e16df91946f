"""Settings of a very short training on the small dataset."""

import jax
import pytest

from recllm_tasks.engine import decoding, optimizer, training
from recllm_tasks.runs.decoding import Decoding

LENGTHS = {"inputs": 512, "targets": 64}


@pytest.fixture(scope="package", autouse=True)
def few_buckets(decoding_buckets):
    """Few programs per search: compiling takes most of the time here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "BUCKETS", decoding_buckets)
        yield


@pytest.fixture
def settings(network):
    """Arguments of `training.train` except the folder, the mixture and the steps."""
    return {
        "model_name": "very_small",
        "lengths": LENGTHS,
        "network": network,
        "optimizer": optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10)),
        "batch_size": 4,
        "eval_period": 3,
        "decoding": Decoding(num_beams=4, batch_size=16),
        "seed": 1,
    }


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.fixture
def script_validations():
    """A function that makes validations give `value_of(step)` as ndcg@10."""

    def script(patch: pytest.MonkeyPatch, value_of) -> None:
        validate, steps = training._Loop._validate, []

        def validate_at(self, state, step, work, stop):
            steps.append(step)
            validate(self, state, step, work, stop)

        def measure(validation, params, check):
            return "ndcg@10", {"ndcg@10": value_of(steps[-1])}

        patch.setattr(training._Loop, "_validate", validate_at)
        patch.setattr(training.Validation, "measure", measure)

    return script
