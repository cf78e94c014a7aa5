"""Which words moved an answer: `explain`, its result, and the page that shows it.

Requires liminal_hf.scoring.
"""

from .effects import Effect, Explanation, explain
from .words import NOT_READ

__all__ = ["NOT_READ", "Effect", "Explanation", "explain"]
