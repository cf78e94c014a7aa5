"""The old name of `liminal_hf.figures`, kept for version 0.2."""

import warnings
from typing import Any

from . import figures


def __getattr__(name: str) -> Any:
    value = getattr(figures, name)
    warnings.warn("liminal_hf.visualization is now liminal_hf.figures", DeprecationWarning, stacklevel=2)
    return value
