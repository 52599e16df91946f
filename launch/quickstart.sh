#!/usr/bin/env bash
# From nothing to an evaluated recommender: creates .venv, prepares MovieLens 100k, trains a small
# model of ids, and prints its metrics on all test users beside simple baselines: alone, and ranked
# together with item-to-item.
#
#   launch/quickstart.sh                 # data and run in ./quickstart
#   launch/quickstart.sh FOLDER [SEED]   # elsewhere, or with another seed
#
# Needs Python 3.11, 3.12 or 3.13 and PyPI; run again, it resumes where it stopped.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="${1:-quickstart}"
seed="${2:-0}"
"$root/launch/install.sh"
mkdir -p "$folder"

recllm="$root/.venv/bin/recllm"
data="$folder/data"
run="$folder/movielens_100k_seed_$seed"

"$recllm" prepare movielens_100k --data_dir "$data"
"$recllm" train movielens_100k --data_dir "$data" --out "$run" --gin.RANDOM_SEED="$seed"
"$recllm" eval "$run" --data_dir "$data" >"$run/eval.txt"
"$recllm" eval "$run" --data_dir "$data" --gin.PRIOR_WEIGHT=validation
