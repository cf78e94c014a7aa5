#!/usr/bin/env bash
# Sets up .venv and runs everything that has to pass: ruff, mypy, and the suite; at the end, its slowest tests.
#
#   bash scripts/test.sh                                   all of it
#   bash scripts/test.sh tests/test_modeling.py -k memory  a part of the suite: the arguments go to pytest
#   bash scripts/test.sh --nightly                         the slow tests and those of the research scripts
#   bash scripts/test.sh --cov=liminal_hf                  also prints how much of the package the tests run
#
# Tests that need a corpus look for it in the folder that LIMINAL_DATA_DIR names, and say so when they skip.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up test

# Two processes of one thread each: small models gain nothing from more threads, and the suite halves its time.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false

if [ "${1:-}" = --nightly ]; then
  set -- -m nightly "${@:2}"
fi

say "ruff check, ruff format --check"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
say "mypy"
.venv/bin/mypy
say "pytest $*"
exec .venv/bin/python -m pytest --numprocesses=2 --dist=worksteal --durations=15 "$@"
