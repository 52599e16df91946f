#!/usr/bin/env bash
# Sets up .venv in the checkout where needed, and runs the tests. Arguments go to pytest; paths
# in them count from the checkout.
#
#   launch/test.sh                                  # all but the slow ones
#   launch/test.sh -m slow -n 0                     # the slow ones; some measure time, so one by one
#   launch/test.sh tests/metrics_test.py -k ndcg
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/launch/install.sh" --with-tests

cd "$root"
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
# -P: the tests see the installed package, not whatever lies in the current folder.
# A process for each core, at most four: each holds up to 4 GB. A file's tests stay together.
exec "$root/.venv/bin/python" -P -m pytest -m "not slow" --numprocesses=auto --maxprocesses=4 \
  --dist=loadfile "$@"
