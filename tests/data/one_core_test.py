"""The same dataset, byte by byte, on any number of cores."""

import hashlib
import os
import subprocess
import sys

import pytest

from recllm_tasks.data.dataset_info import dataset_dir

# Affinity is set before anything counts the cores.
PROGRAM = """
import os, sys
os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
from recllm_tasks.data.prepare import prepare
prepare("gift_cards", sys.argv[2], sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.shared
def test_one_core_and_all_cores_give_the_same_bytes(shared, tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    raw_dir = shared / "gift_cards"
    contents = []
    for number, chosen in enumerate((cores[:1], cores)):
        data_dir = tmp_path / str(number)
        arguments = [",".join(map(str, chosen)), str(data_dir), str(raw_dir)]
        subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True)
        directory = dataset_dir(data_dir, "gift_cards")
        contents.append(
            {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in directory.iterdir()
                # TFDS notes its version and the time of the download there.
                if path.name != "dataset_info.json"
            }
        )
    assert contents[0] == contents[1]
    assert {"catalog.parquet", "recllm.json"} < contents[0].keys()
    assert sum(".tfrecord" in name for name in contents[0]) >= 3
