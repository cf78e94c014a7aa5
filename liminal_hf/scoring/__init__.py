"""Tables of texts with predictions: in one process, or on many machines with Ray.

Requires numpy, pyarrow, torch and transformers; the back ends "onnx" and "int8" need the extra `onnx`, Ray the extra
`ray`.
"""

from .cascade import Cascade
from .job import DifferentRunError, Report, score_table
from .persons import PersonColumns, score_persons
from .scorer import Scorer
from .shards import ScoreSettings

__all__ = [
    "Cascade",
    "DifferentRunError",
    "PersonColumns",
    "Report",
    "ScoreSettings",
    "Scorer",
    "score_persons",
    "score_table",
]
