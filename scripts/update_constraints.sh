#!/usr/bin/env bash
# Refreshes scripts/constraints.txt: installs every extra into a fresh environment and writes down what pip chose.
#
#   bash scripts/update_constraints.sh                  newest of everything, torch as it is pinned now
#   bash scripts/update_constraints.sh torch==2.14.1    torch moved as well
#
# Torch stays put unless asked, because each of its releases on a given machine may be a build of several GB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

held=("$@")
[ ${#held[@]} -gt 0 ] || held=("$(grep '^torch==' scripts/constraints.txt)")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo "== Installing .[dev] and ${held[*]} into a fresh environment"
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${held[@]}" ".[dev]"
{
  echo "# Every package of .[dev] at the version that the suite passes with; for pip install -c scripts/constraints.txt."
  echo "# Written by scripts/update_constraints.sh. The package's own, wider ranges stand in pyproject.toml."
  # Without local build labels (+cpu), and without the libraries that a CUDA build of torch brings and pins itself.
  "$folder/venv/bin/python" -m pip freeze --exclude liminal_hf --exclude pip --exclude setuptools |
    sed -E 's/\+[A-Za-z0-9.]+$//' | grep -Ev '^(nvidia-|cuda-|triton==)' | LC_ALL=C sort -f
} > "$folder/constraints.txt"
cp "$folder/constraints.txt" scripts/constraints.txt
echo "== $(grep -c == scripts/constraints.txt) packages pinned. Now run: bash scripts/test.sh"
