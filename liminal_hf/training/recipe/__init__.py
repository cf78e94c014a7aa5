"""A recipe: one YAML file that says which model is trained on which data, in which phases, and where it is pushed.

Requires PyYAML, pydantic and transformers. A recipe is read with the safe loader and holds plain values only: it can't
run code.
"""

from .example import example_recipe
from .files import RecipeError
from .sections import Data, Distill, Hub, Peft, Phase, Recipe

__all__ = ["Data", "Distill", "Hub", "Peft", "Phase", "Recipe", "RecipeError", "example_recipe"]
