"""Answers as the columns of a table: what `liminal score`, the page and `Scorer` write.

Requires pyarrow.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from ..modeling.configuration_liminal import LiminalConfig


def columns_of(config: LiminalConfig) -> pa.Schema:
    """The columns that a model's answers have.

    Example:
        >>> columns_of(LiminalConfig(pooled_size=8, targets=["warmth"])).names
        ['warmth', 'uncertainty_warmth', 'low_warmth', 'high_warmth', 'verdict_warmth', 'confidence', 'octant',
        'octant_probability', 'emotion', 'emotion_probability', 'in_domain',
        'windows', 'truncated', 'error']
    """
    return pa.schema(
        [
            *((name, pa.float32()) for name in config.targets),
            *((f"uncertainty_{name}", pa.float32()) for name in config.targets),
            *((f"{end}_{name}", pa.float32()) for name in config.targets for end in ("low", "high")),
            *((f"verdict_{name}", pa.string()) for name in config.targets),
            ("confidence", pa.float32()),
            ("octant", pa.string()),
            ("octant_probability", pa.float32()),
            ("emotion", pa.string()),
            ("emotion_probability", pa.float32()),
            ("in_domain", pa.float32()),
            ("windows", pa.int32()),
            ("truncated", pa.bool_()),
            ("error", pa.string()),
        ]
    )


def answers_table(rows: Iterable[Mapping[str, Any]], config: LiminalConfig) -> pa.Table:
    """Rows of `pipeline("pad-regression")` as a table with the columns of `columns_of`.

    Example:
        >>> config = LiminalConfig(pooled_size=8, targets=["warmth"])
        >>> from liminal_hf.modeling.rows import describe
        >>> answers_table([describe([0.25], [0.1], config)], config)["verdict_warmth"].to_pylist()
        ['neutral']
    """
    schema = columns_of(config)
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for row in rows:
        cells = dict(row)
        for kind in ("uncertainty", "verdict"):
            cells |= {f"{kind}_{name}": value for name, value in (row[kind] or {}).items()}
        for name, ends in (row["interval"] or {}).items():
            cells[f"low_{name}"], cells[f"high_{name}"] = ends or (None, None)
        if row["error"] is None:
            cells["windows"] = len(row["windows"] or [row])
        # The likeliest comes first.
        cells["emotion"], cells["emotion_probability"] = next(iter((row["emotions"] or {None: None}).items()))
        for name, column in columns.items():
            column.append(cells.get(name))
    return pa.table(columns, schema=schema)
