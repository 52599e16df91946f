#!/usr/bin/env bash
# Adds T5X, and JAX for a kind of device, to the .venv that launch/install.sh created.
#
#   launch/install_t5x.sh          # T5X
#   launch/install_t5x.sh tpu      # and JAX for TPUs
#   launch/install_t5x.sh cuda13   # and JAX for NVIDIA GPUs, with CUDA 13 (or cuda12)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
pip=("$root/.venv/bin/python" -m pip install -qq)
"${pip[@]}" --no-deps -r "$root/launch/locks/t5x.txt"
if (($#)); then
  "$root/launch/install.sh" "$1"
fi
