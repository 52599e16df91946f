"""MovieLens 100k, taken out of a wheel on PyPI."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError

REQUIREMENT = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_FOLDER = "recbole/dataset_example/ml-100k/"


def fetch_from_wheel(spec: DatasetSpec, data_dir: str | Path) -> Path:
    """Returns a folder with the two raw files of `spec`, fetching them if they are not there.

    The wheel is downloaded by pip, compared with a pinned SHA-256, and only the two data files are
    taken out of it: nothing is installed and no code of it runs.
    """
    target = Path(data_dir) / "downloads" / spec.name
    names = (spec.metadata_file, spec.interactions_file)
    if all((target / name).is_file() for name in names):
        return target
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix="fetch.") as scratch:
        wheel = _download(spec, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            for name in names:
                partial = Path(scratch) / name
                partial.write_bytes(archive.read(_FOLDER + name))
                os.replace(partial, target / name)
    return target


def _download(spec: DatasetSpec, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder), REQUIREMENT]
    by_hand = (
        f"fetch {REQUIREMENT} by hand (`pip download --no-deps {REQUIREMENT}`), unpack "
        f"{spec.interactions_file} and {spec.metadata_file} from its folder {_FOLDER}, and give "
        "their folder with --raw_dir"
    )
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
        raise UserError(
            f"download for '{spec.name}': got '{lines[-1]}' from pip, expected {REQUIREMENT} from "
            f"the package index; check the network, or {by_hand}"
        )
    sha256 = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if sha256 != WHEEL_SHA256:
        raise UserError(
            f"checksum for '{wheels[0].name}': got {sha256}, expected {WHEEL_SHA256}; make sure "
            f"that pip asks pypi.org and not another index, or {by_hand}"
        )
    return wheels[0]
