#!/usr/bin/env bash
# Sets up .venv in the checkout if needed, and runs the tests. Arguments are passed to pytest; paths
# are relative to the checkout.
#
#   launch/test.sh                                  # all except slow ones
#   launch/test.sh -m slow -n 0                     # slow tests, one at a time: some measure time
#   launch/test.sh tests/metrics_test.py -k ndcg
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/launch/install.sh" --with-tests

cd "$root"
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
# -P: tests import the installed package, not the current folder.
# One process per core, at most four, because each uses up to 4 GB. Tests of a file stay together.
exec "$root/.venv/bin/python" -P -m pytest -m "not slow" --numprocesses=auto --maxprocesses=4 \
  --dist=loadfile "$@"
