#!/usr/bin/env bash
# Creates .venv in the checkout, and installs the locked packages and this package into it.
# Does nothing if everything is already installed.
#
#   launch/install.sh                      # packages that recllm_tasks needs
#   launch/install.sh cuda13               # and JAX for NVIDIA GPUs, with CUDA 13 (or cuda12)
#   launch/install.sh tpu                  # and JAX for TPUs
#   launch/install.sh --with-tests         # and packages that its tests need
#   PYTHON=python3.12 launch/install.sh    # with this Python: 3.11, 3.12 or 3.13
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1

# What a stage does, before it starts: pip prints nothing but errors.
said=false
say() {
  echo "launch/install.sh: $*"
  said=true
}

fail() {
  echo "launch/install.sh: $*" >&2
  exit 2
}

# Prints 311, 312 or 313; nothing for another or no Python.
supported_version() {
  "$1" -c 'import sys; v = sys.version_info; print(v[0] * 100 + v[1])' 2>/dev/null |
    grep -E '^31[123]$' || true
}

# Prints the first supported Python; considers only $PYTHON if it is set.
find_python() {
  local candidate candidates=(python3 python3.13 python3.12 python3.11)
  [[ -z "${PYTHON:-}" ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if [[ -n "$(supported_version "$candidate")" ]]; then
      echo "$candidate"
      return
    fi
  done
}

# Installs a requirements file unless it is unchanged since the last time (copy in .venv).
install_lock() {
  local lock="$1" size="$2" stamp
  stamp="$venv/installed-$(basename "$1")"
  cmp -s "$lock" "$stamp" && return
  say "installing $(grep -c '==' "$lock") packages of launch/locks/$(basename "$lock") into .venv:" \
    "$size, minutes that depend on the network"
  # Modules are compiled when they are imported first: most never are.
  # Install the pinned setuptools first: isolated builds would download the newest one.
  "$venv/bin/python" -m pip install -qq --no-compile "$(grep '^setuptools==' "$runtime_lock")"
  "$venv/bin/python" -m pip install -qq --no-compile --no-build-isolation -r "$runtime_lock" -r "$lock"
  cp "$lock" "$stamp"
}

install_package() {
  local stamp="$venv/installed-setup.py"
  # A checkout that was moved is installed again: the programs in .venv begin with its path.
  cmp -s <(cat "$root/setup.py" && echo "# $root") "$stamp" && return
  say "installing recllm_tasks itself into .venv, as a link to this checkout: seconds"
  "$venv/bin/python" -m pip install -qq --no-build-isolation --no-deps -e "$root"
  { cat "$root/setup.py" && echo "# $root"; } >"$stamp"
}

# Installs JAX for a kind of device, in the release of the lock: its plugins are not locked, because
# they are large and only for some machines.
install_device() {
  local release stamp="$venv/installed-$1"
  release="$(sed -n 's/^jax==//p' "$runtime_lock")"
  [[ "$(cat "$stamp" 2>/dev/null)" == "$release" ]] && return
  say "installing JAX for $1 into .venv: its libraries are large, minutes"
  "$venv/bin/python" -m pip install -qq "jax[$1]==$release"
  echo "$release" >"$stamp"
}

with_tests=false device=""
for argument in "$@"; do
  case "$argument" in
    --with-tests) with_tests=true ;;
    cuda12 | cuda13 | tpu) device="$argument" ;;
    *) fail "unknown argument: got $argument, expected cuda13, tpu, --with-tests or none" ;;
  esac
done

if [[ ! -e "$venv" ]]; then
  python="$(find_python)"
  [[ -n "$python" ]] || fail "no supported Python for '${PYTHON:-python3}': got" \
    "$("${PYTHON:-python3}" --version 2>/dev/null || echo "no working program")," \
    "expected 3.11, 3.12 or 3.13; install one and name it: PYTHON=python3.12 launch/install.sh"
  say "creating .venv with $("$python" --version): seconds"
  if ! "$python" -m venv "$venv"; then
    rm -rf "$venv"
    fail "could not create $venv with $python; on Debian, install python3-venv"
  fi
fi

version="$(supported_version "$venv/bin/python")"
[[ -n "$version" ]] || fail "no working Python 3.11, 3.12 or 3.13 in $venv; remove that folder"
if [[ -n "${PYTHON:-}" && "$(supported_version "$PYTHON")" != "$version" ]]; then
  fail "another Python for '$venv': got PYTHON=$PYTHON, expected one of version ${version/3/3.};" \
    "remove that folder, or unset PYTHON"
fi

runtime_lock="$root/launch/locks/py$version.txt"
install_lock "$runtime_lock" "about 3 GB on disk"
if $with_tests; then
  install_lock "$root/launch/locks/py$version-test.txt" "about 1.5 GB on disk (5 GB where torch comes with CUDA)"
fi
install_package
[[ -z "$device" ]] || install_device "$device"
if $said; then
  say "done; .venv/bin/recllm doctor checks the installation"
fi
