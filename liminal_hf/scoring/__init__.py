"""Many texts to a table with pleasure, arousal and dominance: in one process, or on many machines with Ray.

Requires numpy, pyarrow, torch and transformers; the back ends "onnx" and "int8" need the extra `onnx`, Ray the extra
`ray`.
"""

from .job import DifferentRunError, Report, score_table
from .scorer import Scorer

__all__ = ["DifferentRunError", "Report", "Scorer", "score_table"]
