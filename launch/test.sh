#!/usr/bin/env bash
# Sets up .venv in the checkout if needed, and runs the tests. Arguments go to pytest; paths in
# them are relative to the checkout.
#
#   launch/test.sh                                  # all but the slow tests
#   launch/test.sh -m slow -n 0                     # slow tests, one by one: some measure time
#   launch/test.sh tests/metrics_test.py -k ndcg
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/launch/install.sh" --with-tests

cd "$root"
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
# -P: the tests use the installed package, not files in the current folder.
# One process per core, at most four: each needs up to 4 GB. The tests of a file share a process.
exec "$root/.venv/bin/python" -P -m pytest -m "not slow" --numprocesses=auto --maxprocesses=4 \
  --dist=loadfile "$@"
