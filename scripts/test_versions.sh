#!/usr/bin/env bash
# Runs the core tests in fresh environments, one for each given version of transformers: by default the lowest and the
# highest that the package supports.
#
#   bash scripts/test_versions.sh                        5.16.0 and the version of scripts/constraints.txt
#   bash scripts/test_versions.sh 5.19.0                 another one
#   TORCH=2.6.0 PYTHON=python3.12 bash scripts/test_versions.sh 5.16.0
#
# TORCH is the version of torch (default: that of scripts/constraints.txt, for all), PYTHON the interpreter (default:
# python3), TESTS the tests (default: those below). Older releases of torch may only come as builds of several GB;
# point pip at an index with small ones by PIP_EXTRA_INDEX_URL. The outcome goes to scripts/results/versions.txt, too.
# Exits with 1 if any environment fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pinned() { sed -n "s/^$1==//p" scripts/constraints.txt; }
lowest=$(sed -n 's/^ *"transformers>=\([0-9.]*\).*/\1/p' pyproject.toml).0
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=("$lowest" "$(pinned transformers)")
torch=${TORCH:-$(pinned torch)}
read -ra tests <<< "${TESTS:-tests/test_modeling.py tests/test_complaints.py tests/test_plugins.py tests/test_compile.py tests/test_trainer.py tests/test_transformers_suite.py}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
results=()
for version in "${versions[@]}"; do
  python=$folder/$version/bin/python
  echo "== transformers $version, torch $torch: installing"
  "${PYTHON:-python3}" -m venv "$folder/$version"
  "$python" -m pip install --quiet --disable-pip-version-check "torch==$torch" "transformers==$version" ".[offline]" \
    "pytest>=9.0" "pytest-timeout>=2.3" "pytest-xdist>=3.6" "parameterized>=0.9" setuptools
  echo "== transformers $version, torch $torch: pytest ${tests[*]}"
  # By this command the installed package is tested; `python -m pytest` would take the folder beside it.
  if "$folder/$version/bin/pytest" --numprocesses=2 --dist=loadscope --timeout=1800 -q -r fE --cache-clear "${tests[@]}"; then
    results+=("transformers $version, torch $torch, $("$python" --version): passed")
  else
    results+=("transformers $version, torch $torch, $("$python" --version): FAILED")
  fi
  rm -rf "${folder:?}/$version"
done
printf '%s\n' "${results[@]}" | tee scripts/results/versions.txt
[[ "${results[*]}" != *FAILED* ]]
