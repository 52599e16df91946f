#!/usr/bin/env bash
# Builds the documentation into site/, strictly: a broken link is an error. Creates .venv-docs in the
# checkout if needed.
#
#   launch/docs.sh
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv-docs"
lock="$root/launch/locks/py311-docs.txt"
export PIP_DISABLE_PIP_VERSION_CHECK=1 NO_MKDOCS_2_WARNING=1

if ! cmp -s "$lock" "$venv/installed-$(basename "$lock")"; then
  "${PYTHON:-python3}" -m venv "$venv"
  echo "launch/docs.sh: installing $(basename "$lock") into .venv-docs"
  "$venv/bin/python" -m pip install -qq -r "$lock"
  cp "$lock" "$venv/installed-$(basename "$lock")"
fi
cd "$root"
exec "$venv/bin/mkdocs" build --strict "$@"
