#!/usr/bin/env bash
# The table of docs/explanation/results.md: Toys and Beauty, all test users, seen items left out, row by row.
#
#   launch/table.sh FOLDER                # data, runs and report in FOLDER; the files are downloaded
#   launch/table.sh FOLDER RAW [SEEDS]    # raw files in RAW/toys_and_games and RAW/beauty; "0 1 2"
#
# Run again, it goes on where it stopped: what is finished is not computed again. A row of a model
# takes some minutes of two cores. FOLDER/report.html is the report.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="${1:?give a folder}"
raw="${2:-}"
seeds="${3:-0 1 2}"
recllm="$root/.venv/bin/recllm"
[[ -x "$recllm" ]] || "$root/launch/install.sh"
data="$folder/data"
runs="$folder/runs"
mkdir -p "$runs"

for dataset in toys beauty; do
  source=(--download)
  if [[ -n "$raw" ]]; then
    case "$dataset" in
      toys) source=(--raw_dir "$raw/toys_and_games") ;;
      beauty) source=(--raw_dir "$raw/beauty") ;;
    esac
  fi
  "$recllm" prepare "$dataset" --ids atomic --data_dir "$data" "${source[@]}"
  "$recllm" baselines "$dataset" --data_dir "$data" --out "$runs/$dataset" \
    --rows popularity,item_to_item,item_to_item_slow,item_to_item_texts,markov,ease
  for seed in $seeds; do
    "$recllm" baselines "$dataset" --data_dir "$data" --out "$runs/${dataset}_seed_$seed" \
      --rows sasrec --seed "$seed"
    run="$runs/${dataset}_ids_seed_$seed"
    "$recllm" train --data_dir "$data" --gin_file=models/ids.gin --gin_file=runs/finetune.gin \
      --gin_file=runs/ids_sequence.gin --gin.DATASET="$dataset" --gin.MODEL_DIR="$run" \
      --gin.RANDOM_SEED="$seed"
    for weight in 0.0 validation; do
      done="$run/table-$weight"
      [[ -e "$done" ]] && continue
      "$recllm" eval --data_dir "$data" --gin.MODEL_DIR="$run" --gin.PRIOR_WEIGHT="$weight" \
        --gin.MIXTURE_OR_TASK_NAME="${dataset}_ids_sequence_rank"
      touch "$done"
    done
  done
done
"$recllm" report "$runs" --out "$folder/report.html"
