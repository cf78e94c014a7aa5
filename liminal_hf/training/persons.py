"""The prior of persons that a recipe asks for: from the persons of the validation split, whose texts no weight learned.

Requires datasets, numpy and torch.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import DatasetDict

from ..modeling.configuration_liminal import MISSING_LABEL
from ..modeling.person_prior import FEWEST_PERSONS, FEWEST_RATINGS, PersonPrior, fit_person_prior
from .calibration import Predicted
from .recipe import Recipe, RecipeError

logger = logging.getLogger(__name__)

COLUMNS = ("person", "time")


@dataclass(frozen=True)
class ValidationPersons:
    """Who wrote the rows of the validation split, and when.

    Args:
        names: `(rows,)`; "" for nobody.
        times: `(rows,)`, NaN for none; None: the rows of a person are one unit apart.
    """

    names: list[str]
    times: list[float] | None = None

    def prior(self, predicted: Predicted, config: Any) -> PersonPrior:
        """Fitted on what the finished model says of these rows; `PersonPrior.of_model` where a target has no labels.

        The model was chosen, and its uncertainty scaled, by the same rows: the residuals are a little too small, as
        all that is measured there.

        Example:
            >>> from types import SimpleNamespace
            >>> config = SimpleNamespace(label_std=[0.2], label_mean=[0.0])
            >>> labels = (np.arange(30) // 3 % 2 - 0.5)[:, None] + np.tile([-0.1, 0, 0.1], 10)[:, None]
            >>> persons = ValidationPersons([str(row // 3) for row in range(30)])
            >>> prior = persons.prior(Predicted(np.zeros((30, 1)), None, labels), config)
            >>> round(prior.residual_between.item(), 2)
            0.25
        """
        times = np.zeros(len(self.names)) if self.times is None else np.asarray(self.times)
        known = np.flatnonzero([name != "" for name in self.names] & ~np.isnan(times))
        return fit_person_prior(
            predicted.predictions[known],
            predicted.labels[known],
            [self.names[row] for row in known],
            None if self.times is None else times[known],
            otherwise=PersonPrior.of_model(config),
        )


def persons_of(splits: DatasetDict, recipe: Recipe) -> ValidationPersons | None:
    """The persons of the validation split, checked before any training; None where the recipe names no column.

    Args:
        splits: as `load_splits` gives them.
        recipe: its `data.person` and `data.time` name columns.

    Raises:
        RecipeError: there are too few persons or ratings for a prior, or the splits were given without the columns.
    """
    if recipe.data.person is None:
        return None
    rows = splits["validation"]
    wanted = COLUMNS if recipe.data.time else COLUMNS[:1]
    if missing := [name for name in wanted if name not in rows.column_names]:
        raise RecipeError(
            f"data.{missing[0]} is set, and the validation split that was given has no column {missing[0]!r}; its "
            f"columns are {', '.join(rows.column_names)}."
        )
    names = ["" if name is None else str(name) for name in rows["person"][:]]
    times = [np.nan if time is None else float(time) for time in rows["time"][:]] if recipe.data.time else None
    labels = np.asarray(rows["labels"][:], dtype=np.float64)
    trained = (np.asarray(splits["train"]["labels"][:]) != MISSING_LABEL).any(axis=0)
    for index in np.flatnonzero(trained):
        known = [
            name
            for row, name in enumerate(names)
            if name and labels[row, index] != MISSING_LABEL and (times is None or not np.isnan(times[row]))
        ]
        enough = sum(count >= FEWEST_RATINGS for count in Counter(known).values())
        if enough < FEWEST_PERSONS:
            raise RecipeError(
                f"data.person: how persons differ is measured on the validation split, and there {enough} persons have "
                f"{FEWEST_RATINGS} labels or more of {recipe.targets[index]}; {FEWEST_PERSONS} are needed. Give a "
                "larger `validation` table or data.validation_fraction, or leave data.person out."
            )
    trained_on = splits["train"]["person"][:] if "person" in splits["train"].column_names else []
    if both := set(names) & {str(name) for name in trained_on if name is not None} - {""}:
        logger.warning(
            "%d persons are in the training and in the validation split. The model has seen their style, so the prior "
            "may make persons a little too alike; without a `validation` table whole persons are held out.", len(both)
        )  # fmt: skip
    return ValidationPersons(names, times)
