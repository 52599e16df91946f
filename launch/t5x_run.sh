#!/usr/bin/env bash
# Fine-tunes a published FLAN-T5 on a mixture with T5X and evaluates it on all test users. The other
# launch scripts call it on every machine. Call it again to resume an interrupted run.
#
#   launch/t5x_run.sh --mixture toys_reat --model flan_t5_xl --bucket gs://bucket --data_dir data
#
#   --mixture NAME      task or mixture to train on; its tasks with metrics are evaluated
#   --model NAME        a file of gin/models: flan_t5_small, flan_t5_base, flan_t5_large, flan_t5_xl
#   --bucket FOLDER     gs://… or a folder shared by all machines; runs are in FOLDER/runs
#   --data_dir FOLDER   prepared datasets, on this machine
#   --seed N            default: 0
#   --distributed       this machine is part of a TPU pod or a Slurm job
#   --dry_run           print the commands without running them
#   --gin.NAME=VALUE …  upper-case settings for both steps, such as --gin.MODEL_PARALLEL=4
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/options.sh
source "$root/launch/options.sh"
parse_options "$@"
require_options mixture model bucket data_dir

run="$bucket/runs/${mixture}_${model}_seed_$seed"
bridge=("$root/.venv/bin/python" -m recllm_tasks.t5x_bridge)
common=(--data_dir="$data_dir" --gin_file="models/$model.gin")
settings=(--gin.MIXTURE_OR_TASK_NAME="$mixture" --gin.MODEL_DIR="$run")
if $distributed; then
  common+=(--distributed)
fi

execute "${bridge[@]}" train "${common[@]}" --gin_file=runs/t5x_finetune.gin "${settings[@]}" \
  --gin.RANDOM_SEED="$seed" ${gin_settings[@]+"${gin_settings[@]}"}
execute "${bridge[@]}" eval "${common[@]}" --gin_file=runs/t5x_eval.gin "${settings[@]}" \
  --gin.EVAL_OUTPUT_DIR="$run/test" ${gin_settings[@]+"${gin_settings[@]}"}
