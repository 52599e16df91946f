#!/usr/bin/env bash
# Trains and evaluates on a Cloud TPU VM or pod, step by step or all at once.
#
#   launch/tpu_vm.sh all    --mixture toys_reat --model flan_t5_xl --bucket gs://bucket --zone Z
#   launch/tpu_vm.sh create|install|run|resume|delete …
#
#   create    creates the TPU
#   install   copies this checkout, its packages, T5X and the bucket's data to every worker
#   run       runs launch/t5x_run.sh on every worker
#   resume    after a preemption: creates the TPU again, installs, resumes from the last checkpoint
#   delete    deletes the TPU; everything worth keeping is in the bucket
#   all       create, install, run, and delete if that succeeded
#
#   --mixture, --model, --seed, --gin.NAME=VALUE: see launch/t5x_run.sh
#   --bucket gs://…     contains data/ (prepared datasets); runs are written to runs/
#   --zone Z            such as europe-west4-a
#   --accelerator TYPE  v3-8 by default; v4-8, v5litepod-16 …
#   --version NAME      the TPU's image, tpu-ubuntu2204-base by default
#   --name NAME         of the TPU, recllm by default
#   --spot              cheaper, but may be preempted
#   --dry_run           print the commands without running them
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/options.sh
source "$root/launch/options.sh"
step="${1:-}"
(($#)) && shift
parse_options "$@"
require_options zone

tpu=(gcloud compute tpus tpu-vm)

on_every_worker() {
  execute "${tpu[@]}" ssh "$name" --zone="$zone" --worker=all --command="$1"
}

create() {
  local make=("${tpu[@]}" create "$name" --zone="$zone")
  make+=(--accelerator-type="$accelerator" --version="$version")
  if $spot; then
    make+=(--spot)
  fi
  execute "${make[@]}"
}

install() {
  require_options bucket
  local archive="${TMPDIR:-/tmp}/recllm_tasks.tgz"
  execute tar -C "$root" --exclude=.venv --exclude=.git --exclude=quickstart -czf "$archive" .
  execute "${tpu[@]}" scp "$archive" "$name:recllm_tasks.tgz" --zone="$zone" --worker=all
  # The image's Python is older than 3.11.
  # shellcheck disable=SC2016  # expanded by the worker's shell
  on_every_worker 'set -e; mkdir -p recllm_tasks; tar -C recllm_tasks -xzf recllm_tasks.tgz
python3 -m pip install -q --user uv; ~/.local/bin/uv python install -q 3.12
cd recllm_tasks; PYTHON="$(~/.local/bin/uv python find 3.12)" launch/install.sh
launch/install_t5x.sh tpu'
  on_every_worker "mkdir -p recllm_data && gcloud storage rsync -r $(printf %q "$bucket")/data recllm_data"
}

run() {
  require_options mixture model bucket
  on_every_worker "recllm_tasks/launch/t5x_run.sh $(run_options --data_dir recllm_data --distributed)"
}

resume() {
  require_options mixture model bucket
  local state=PREEMPTED describe=("${tpu[@]}" describe "$name" --zone="$zone" "--format=value(state)")
  execute "${describe[@]}" 2>/dev/null || true
  if ! $dry_run; then
    state="$("${describe[@]}" 2>/dev/null || echo GONE)"
  fi
  if [[ "$state" != READY ]]; then
    [[ "$state" == GONE ]] || delete
    create
    install
  fi
  run
}

delete() {
  execute "${tpu[@]}" delete "$name" --zone="$zone" --quiet
}

case "$step" in
  create | install | run | resume | delete) "$step" ;;
  all)
    require_options mixture model bucket
    create
    install
    run
    delete
    ;;
  *) fail "unknown step: got '${step}', expected create, install, run, resume, delete or all" ;;
esac
