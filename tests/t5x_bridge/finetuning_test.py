"""T5X trains on the batches of the local engine, on any number of hosts."""

import itertools
import os

import numpy as np
import pytest

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks.pipeline import training
from recllm_tasks.prompts.source import Shard
from recllm_tasks.t5x_bridge import imports

if not os.environ.get("T5X_DIR"):
    pytest.skip("needs T5X: T5X_DIR=<checkout> launch/test.sh -m t5x", allow_module_level=True)
imports.prepare()

from t5x import utils  # noqa: E402

from recllm_tasks.errors import UserError  # noqa: E402
from recllm_tasks.t5x_bridge import finetuning  # noqa: E402

LENGTHS = {"inputs": 512, "targets": 64}
MIXTURE = "gift_cards_raat"

pytestmark = [pytest.mark.t5x, pytest.mark.usefixtures("small_data", "clean_gin")]


def _of_t5x(folder, host, num_hosts, batch_size=16, **settings):
    config = utils.DatasetConfig(
        mixture_or_task_name=MIXTURE,
        task_feature_lengths=LENGTHS,
        split="train",
        batch_size=batch_size,
        shuffle=True,
        seed=3,
        **{"pack": True, **settings},
    )
    return finetuning.training_batches(
        config, host, num_hosts, None, model_dir=str(folder), checkpoint=None
    )


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("num_hosts", [1, 4])
def test_batches_are_those_of_the_local_engine(num_hosts, pack, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "BLOCK", 256)
    for host in range(num_hosts):
        expected = training.training_batches(
            MIXTURE, LENGTHS, 16 // num_hosts, 3, pack=pack, shard=Shard(host, num_hosts)
        )
        found = _of_t5x(tmp_path, host, num_hosts, pack=pack)
        for one, other in itertools.islice(zip(found, expected), 20):
            assert one.keys() == other.keys()
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])


def test_hosts_that_cannot_share_a_batch_are_refused(tmp_path):
    with pytest.raises(UserError, match="BATCH_SIZE: got 15, expected a multiple of 4"):
        _of_t5x(tmp_path, 0, 4, batch_size=15)
