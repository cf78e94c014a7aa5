"""The grid files of `benchmark.py`: which systems are measured, on which recipe.

Requires liminal_hf and PyYAML. A grid file holds `recipe` (relative to the grid), `compare` ("best peer" or a system's
name), optionally `readout` (a system whose accuracy is shown after each step) and `systems`. A system has a `name`, a
`kind`, perhaps `ours: true`, and perhaps a `recipe` of its own:

- `constant`: the mean of the training labels.
- `vader`: pleasure alone, VADER's compound score (Hutto & Gilbert 2014) brought to the labels' scale on train.
- `ridge`, `svr`: scikit-learn on the pooled states of the `last` or of `all` `layers`, alpha or C chosen on dev.
- `sentence_transformers`: scikit-learn's ridge on what sentence-transformers encodes, alpha chosen on dev.
- `fit`: the recipe with `overrides`, through `liminal_hf.training.fit.fit`.
- `trial`: the recipe with `overrides` and the change to its training that `trial` says, see `trials.py`. With `ranks:
  true`, for a head with an uncertainty, the table says how well that ranks the errors.
- `plain`: `AutoModelForSequenceClassification` by transformers' Trainer, with `overrides` of its `TrainingArguments`.
  Of the recipe it takes the encoder, the length of texts and the teachers, where it has any.
- `mean`: the mean of the predictions of the systems that `of` names, which come before it.
- `leak`: the recipe with `overrides` on the frozen encoder, but the labels are given as affect in training, as the
  original did; with `told: true` also when it predicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from liminal_hf.training.recipe import Recipe

KINDS = ("constant", "vader", "ridge", "svr", "sentence_transformers", "fit", "trial", "plain", "leak", "mean")
SEEDED = ("fit", "trial", "plain", "leak", "mean")  # the other kinds have one cell for all seeds
TRAINED = ("fit", "trial", "leak")  # by the recipe
WITH_RECIPE = (*TRAINED, "plain")
BEST_PEER = "best peer"
_KEYS = {"recipe", "compare", "readout", "systems"}
_SYSTEM_KEYS = {"name", "kind", "ours", "layers", "told", "of", "recipe", "overrides", "trial", "ranks"}


@dataclass
class System:
    """One line of a grid; the fields are those of the file."""

    name: str
    kind: str
    ours: bool = False
    layers: str = "all"
    told: bool = False
    of: list[str] = field(default_factory=list)
    recipe: Recipe | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    trial: dict[str, Any] = field(default_factory=dict)
    ranks: bool = False


@dataclass
class Grid:
    """A grid file, read and checked."""

    name: str
    recipe: Recipe
    systems: list[System]
    compare: str = BEST_PEER
    readout: str | None = None

    @classmethod
    def from_yaml(cls, path: Path) -> "Grid":
        """Reads a grid.

        Raises:
            ValueError: the file is missing, or a key, a kind or a name in it is not known; the message says which.
        """
        if not path.is_file():
            raise ValueError(f"There is no grid at {path}. The ready ones are in scripts/grids/.")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        _check_keys(str(path), content, _KEYS, {"recipe", "systems"})
        systems: list[System] = []
        for entry in content["systems"]:
            _check_keys(f"{path}, a system", entry, _SYSTEM_KEYS, {"name", "kind"})
            if entry["kind"] not in KINDS:
                raise ValueError(f"{path}: system {entry['name']!r} has kind {entry['kind']!r}; known: {KINDS}.")
            if entry.get("layers", "all") not in ("last", "all"):
                raise ValueError(f"{path}: layers of {entry['name']!r} must be last or all, got {entry['layers']!r}.")
            if "recipe" in entry:
                if entry["kind"] not in WITH_RECIPE:
                    raise ValueError(f"{path}: {entry['name']!r}: a recipe of its own is for the kinds {WITH_RECIPE}.")
                entry["recipe"] = Recipe.from_yaml(path.parent / entry["recipe"])
            before = [system.name for system in systems]
            if (entry["kind"] == "mean") != bool(entry.get("of")) or set(entry.get("of", [])) - set(before):
                raise ValueError(
                    f"{path}: a system of kind mean, and no other, names in `of` some systems before it; "
                    f"{entry['name']!r} has {entry.get('of')}, before it are {before}."
                )
            systems.append(System(**entry))
        names = [system.name for system in systems]
        if len(set(names)) < len(names):
            raise ValueError(f"{path}: each system needs a name of its own, got {names}.")
        compare, readout = content.get("compare", BEST_PEER), content.get("readout")
        for name in {compare, readout} - {BEST_PEER, None}:
            if name not in names:
                raise ValueError(f"{path}: compare and readout name a system of the grid, not {name!r}; got {names}.")
        recipe = Recipe.from_yaml(path.parent / content["recipe"])
        return cls(path.stem, recipe, systems, compare, readout)

    def named(self, names: Sequence[str]) -> list[System]:
        """The systems of these names, in their order."""
        return [next(system for system in self.systems if system.name == name) for name in names]

    def chosen(self, only: Sequence[str] | None) -> list[System]:
        """The systems of these names, all of them where none is given.

        Raises:
            ValueError: a name is not in the grid.
        """
        names = [system.name for system in self.systems]
        unknown = set(only or []) - set(names)
        if unknown:
            raise ValueError(f"--only: the grid has no {sorted(unknown)}. It has: {', '.join(names)}.")
        return [system for system in self.systems if not only or system.name in only]


def _check_keys(where: str, content: Any, allowed: set[str], needed: set[str]) -> None:
    if not isinstance(content, dict) or not needed <= set(content) <= allowed:
        found = sorted(content) if isinstance(content, dict) else content
        raise ValueError(f"{where}: needs the keys {sorted(needed)}, may have {sorted(allowed)}; got {found}.")
