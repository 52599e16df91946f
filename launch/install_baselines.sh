#!/usr/bin/env bash
# Creates .venv-baselines in the checkout: the environment of RecBole, whose models are rows of
# `recllm baselines`. RecBole needs older packages than recllm_tasks, and nothing of recllm_tasks.
# Does nothing if everything is already installed.
#
#   launch/install_baselines.sh
#   PYTHON=/opt/python3.11 launch/install_baselines.sh    # with this Python 3.11
#   VENV=~/recbole launch/install_baselines.sh            # elsewhere, for --recbole_python
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv-baselines}"
lock="$root/launch/locks/py311-baselines.txt"
python="${PYTHON:-python3.11}"
export PIP_DISABLE_PIP_VERSION_CHECK=1

if (($#)); then
  echo "launch/install_baselines.sh: unknown argument: got $1, expected none" >&2
  exit 2
fi
if [[ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" != 3.11 ]]; then
  echo "launch/install_baselines.sh: no Python 3.11 at '$python', set PYTHON" >&2
  exit 2
fi
if cmp -s "$lock" "$venv/installed-$(basename "$lock")"; then
  exit 0
fi
"$python" -m venv "$venv"
echo "launch/install_baselines.sh: installing $(basename "$lock") into $venv"
# Install the pinned setuptools first: isolated builds would download the newest one.
mapfile -t first < <(grep -E '^(setuptools|wheel)==' "$lock")
"$venv/bin/python" -m pip install -qq "${first[@]}"
"$venv/bin/python" -m pip install -qq --no-build-isolation -r "$lock"
"$venv/bin/python" -I -c 'import recbole, pyarrow; print("RecBole", recbole.__version__)'
cp "$lock" "$venv/installed-$(basename "$lock")"
