"""Tests of `scripts/behaviour.py`: enough cases, all different, judged and counted by the rule of the table."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from behaviour import paired_differences  # noqa: E402

from liminal_hf.benchmark.behaviour import MOVES, Case, cases, judge  # noqa: E402

pytestmark = pytest.mark.nightly


def test_there_are_enough_cases_of_every_kind() -> None:
    every = cases()
    assert len(every) >= 300 and len(set(every)) == len(every) and every == cases()
    assert all(case.base != case.changed for case in every)
    kinds = " ".join(case.kind for case in every)
    wanted = ("negation", "extremely", "full stop", "CAPITALS", "emoji", "letter left out", "woman's", "origin", "she")
    assert all(word in kinds for word in wanted)


def test_steps_are_judged_in_standard_deviations_of_the_system() -> None:
    every = [Case("k", f"b{n}", f"c{n}", way) for n, way in enumerate(("up", "up", "down", "stays", "stays"))]
    every.append(Case("k", "b0", "c1", "up", dimension=1))
    bases = {f"b{n}": np.array([float(value)]) for n, value in enumerate((-1, 1, -1, 1, 0))}
    spread = np.std(np.array(list(bases.values())))
    steps = (0.11, 0.09, -0.11, 0.24, 0.26)
    changed = {f"c{n}": bases[f"b{n}"] + step * spread for n, step in enumerate(steps)}
    assert judge(every, bases | changed) == [True, False, True, True, False, None]


def test_differences_between_people_have_intervals() -> None:
    texts = {text for case in cases() for text in (case.base, case.changed)}
    # Whoever is called Agnieszka or Wojciech is read as happier by 0.1.
    read = {text: np.array([0.1 * ("Agnieszka" in text or "Wojciech" in text), 0.0, 0.0]) for text in texts}
    found = paired_differences(read)
    polish = next(row for group, row in found.items() if group.startswith("Polish"))
    assert polish["pairs"] == 16 and polish["differences"][0] == pytest.approx([0.1] * 3)
    assert all(row["differences"][1] == [0, 0, 0] for row in found.values())


def test_the_page_is_about_these_cases() -> None:
    table = (ROOT / "scripts" / "results" / "behaviour.md").read_text(encoding="utf-8")
    assert f"{len(cases())} pairs of sentences" in table and f"more than {MOVES:g}" in table
