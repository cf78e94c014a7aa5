"""A recipe to start from, written from the recipe's own sections.

Requires PyYAML, pydantic and transformers.
"""

import textwrap
from typing import Any

import yaml

from .sections import SECTIONS, Phase, Recipe

_WRITTEN: dict[str, Any] = {
    "model": {"encoder": "sentence-transformers/all-MiniLM-L6-v2", "pooling": "mean", "pooled_layers": "all"},
    "data": {"files": {"train": "my.csv"}, "text": "text", "labels": ["V", "A", "D"], "scale": [1, 5]},
    "phases": {
        "name": "head",
        "trainable": "head",
        "cache": True,
        "ema_decay": 0.99,
        "training": {"num_train_epochs": 12, "per_device_train_batch_size": 128, "learning_rate": 0.0015},
    },
    "seed": 0,
}


def example_recipe() -> str:
    """A recipe to start from, with every key, what it means and its default; `liminal train --example` prints it.

    A line that begins with # and no space holds a key at its default; without the # it counts.

    Example:
        >>> Recipe.from_dict(yaml.safe_load(example_recipe())).phases[0].name
        'head'
    """
    head = [
        "# Train this recipe with: liminal train my.yaml -o runs/mine",
        "# A line that begins with # and no space shows a key that is left out: remove the # to set it.",
        "# `base: other.yaml` takes the values of another recipe; what is written here wins.",
    ]
    return "\n".join([*head, *_lines(Recipe, _WRITTEN, "")]) + "\n"


def _lines(section: Any, written: dict[str, Any], indent: str, left_out: bool = False) -> list[str]:
    lines = []
    for key, field in section.model_fields.items():
        text = " ".join((field.description or "").split())
        lines += textwrap.wrap(text, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        is_off = left_out or key not in written
        line = f"{'#' * is_off}{indent}{key}:"
        # A phase may change the model too; that and `training` are given in one line.
        inner = SECTIONS.get(key) if section is Recipe else None
        if inner is None:
            value = field.get_default(call_default_factory=True) if is_off else written[key]
            value = field.examples[0] if is_off and field.is_required() else value
            value = list(value) if isinstance(value, tuple) else value
            plain = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
            lines.append(f"{line} {plain.strip().removesuffix('...').strip()}")
            continue
        body = _lines(inner, written.get(key, {}), "    " if inner is Phase else "  ", is_off)
        if inner is Phase:
            first = next(row for row, text in enumerate(body) if text.startswith("    name:"))
            body[first] = body[first].replace("    name:", "  - name:")
        lines += [line, *body]
    return lines
