#!/usr/bin/env bash
# Runs launch/t5x_run.sh on one machine with GPUs, after installing CUDA's packages and T5X.
#
#   launch/gpu_local.sh --mixture toys_reat --model flan_t5_base --bucket runs --data_dir data
#   launch/gpu_local.sh … --gin.MODEL_PARALLEL=4 --dry_run
#
# Options: see launch/t5x_run.sh.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/options.sh
source "$root/launch/options.sh"
parse_options "$@"
require_options mixture model bucket data_dir

execute "$root/launch/install.sh"
execute "$root/launch/install_t5x.sh" cuda13
# Leave some memory to other users of the GPU than JAX: T5X copies batches during computation.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}"
execute "$root/launch/t5x_run.sh" "$@"
