#!/usr/bin/env bash
# Fine-tunes a published FLAN-T5 on a mixture with T5X, and evaluates it on all test users. The other
# launch scripts call it on every machine. Run again, it resumes where it stopped.
#
#   launch/t5x_run.sh --mixture toys_reat --model flan_t5_xl --bucket gs://bucket --data_dir data
#
#   --mixture NAME      task or mixture: train on it, evaluate its tasks that have metrics
#   --model NAME        a file in gin/models: flan_t5_small, flan_t5_base, flan_t5_large, flan_t5_xl
#   --bucket FOLDER     gs://… or a folder that all machines share; runs are in FOLDER/runs
#   --data_dir FOLDER   prepared datasets, on this machine
#   --seed N            0 by default
#   --distributed       this machine is one of a TPU pod, or of a Slurm job
#   --dry_run           print the commands without running them
#   --gin.NAME=VALUE …  upper-case settings of either program, such as --gin.MODEL_PARALLEL=4
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/options.sh
source "$root/launch/options.sh"
parse_options "$@"
require_options mixture model bucket data_dir

run="$bucket/runs/${mixture}_${model}_seed_$seed"
bridge=("$root/.venv/bin/python" -m recllm_tasks.t5x_bridge)
common=(--data_dir="$data_dir" --shared_settings --gin_file="models/$model.gin")
settings=(--gin.MIXTURE_OR_TASK_NAME="$mixture" --gin.MODEL_DIR="$run")
if $distributed; then
  common+=(--distributed)
fi

execute "${bridge[@]}" train "${common[@]}" --gin_file=runs/t5x_finetune.gin "${settings[@]}" \
  --gin.RANDOM_SEED="$seed" ${gin_settings[@]+"${gin_settings[@]}"}
execute "${bridge[@]}" eval "${common[@]}" --gin_file=runs/t5x_eval.gin "${settings[@]}" \
  --gin.EVAL_OUTPUT_DIR="$run/test" ${gin_settings[@]+"${gin_settings[@]}"}
