# Sourced by the scripts beside it: sets up .venv with python's own venv and pip, from the pinned versions.
#
# PYTHON names the interpreter to start from (default: python3); it has to be 3.11 or newer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '== %s\n' "$*"; }

# set_up EXTRAS: installs this project with these extras, unless nothing has changed since it last did so.
set_up() {
  local extras=$1 python=${PYTHON:-python3} stamp wanted
  if [ ! -x .venv/bin/python ]; then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "Python 3.11 or newer is needed, and '$python' is not that. Name one: PYTHON=python3.12 bash $0" >&2
      exit 1
    fi
    say "Making .venv with $("$python" --version)"
    "$python" -m venv .venv
  fi
  stamp=.venv/.installed-${extras//,/-}
  wanted=$(cat pyproject.toml scripts/constraints.txt | .venv/bin/python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    say "The packages are up to date in .venv"
    return
  fi
  say "Installing .[$extras] into .venv with the versions of scripts/constraints.txt (a minute or two)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt -e ".[$extras]"
  echo "$wanted" > "$stamp"
}
