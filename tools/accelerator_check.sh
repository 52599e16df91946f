#!/usr/bin/env bash
# What to run where an accelerator can be had for a quarter of an hour:
#
#   launch/install.sh --with-tests cuda13        # or tpu; beforehand
#   tools/accelerator_check.sh [FOLDER]          # results; by default the folder `accelerator`
#   PYTHON=python3 tools/accelerator_check.sh    # with that Python's packages: JAX, Flax, Optax
#
# It needs no network, and ends after MINUTES (by default 9.5), whatever it is doing: `recllm doctor`;
# tests of the loss, of attention and of the beam search on the device, in full float32; and
# tools/bench_accelerator.py for all that is left. What fails does not stop what follows.
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="${1:-accelerator}"
python="${PYTHON:-$root/.venv/bin/python}"
seconds="$(awk "BEGIN { print int(60 * ${MINUTES:-9.5}) }")"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" TF_CPP_MIN_LOG_LEVEL=3

if ! "$python" -c 'import jax, flax, optax' 2>/dev/null; then
  echo "tools/accelerator_check.sh: JAX, Flax and Optax for '$python': got none, expected all" \
    "three; run launch/install.sh --with-tests cuda13 (or tpu), or set PYTHON" >&2
  exit 2
fi
mkdir -p "$out" || exit 2

# Runs a command for at most so many seconds; its output goes into a file too.
within() {
  local limit="$1" file="$out/$2"
  shift 2
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee "$file"
}

within 60 doctor.txt "$python" -m recllm_tasks.cli doctor

# Those that import what is not installed are left out, with a line that says so.
tests=(models/cross_entropy_test.py models/attention_test.py models/beam_search_test.py)
JAX_DEFAULT_MATMUL_PRECISION=highest within $((seconds / 4)) tests.txt \
  "$python" -m pytest -q -p no:cacheprovider -m "not slow" --continue-on-collection-errors \
  "${tests[@]/#/$root/tests/}"

left=$((seconds - SECONDS - 15))
within $((left + 10)) bench.txt "$python" "$root/tools/bench_accelerator.py" \
  --minutes "$(awk "BEGIN { print $left / 60 }")" --out "$out"
