#!/usr/bin/env bash
# What to run where an accelerator can be had for a quarter of an hour:
#
#   launch/install.sh --with-tests cuda13        # or tpu; beforehand
#   tools/accelerator_check.sh [FOLDER]          # results; by default the folder `accelerator`
#
# It needs no network. `recllm doctor`; tests of the loss, of attention and of the beam search on the
# device, in full float32; then tools/bench_accelerator.py for MINUTES (by default 8).
# PYTHON is that of .venv unless it is set. What fails does not stop what follows.
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="${1:-accelerator}"
python="${PYTHON:-$root/.venv/bin/python}"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" TF_CPP_MIN_LOG_LEVEL=3
mkdir -p "$out"

timeout 60 "$python" -m recllm_tasks.cli doctor 2>&1 | tee "$out/doctor.txt"

tests=(models/cross_entropy_test.py models/attention_test.py models/beam_search_test.py)
JAX_DEFAULT_MATMUL_PRECISION=highest timeout 240 "$python" -m pytest -q -n 0 -x \
  "${tests[@]/#/$root/tests/}" 2>&1 | tee "$out/tests.txt"

timeout 600 "$python" "$root/tools/bench_accelerator.py" \
  --minutes "${MINUTES:-8}" --out "$out" 2>&1 | tee "$out/bench.txt"
