#!/usr/bin/env bash
# Sets up .venv and runs the long half of the fault tests: kills, full disks, damage, a soak, a busy page, the packages.
#
#   bash scripts/test_faults.sh                          all of it, about twenty minutes on two cores
#   bash scripts/test_faults.sh --parts soak --share 0.1  a part: the arguments go to scripts/faults.py
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up test,demo,audit
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec .venv/bin/python scripts/faults.py "$@"
