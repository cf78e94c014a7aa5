"""A recipe to start from, written from the recipe's own sections.

Requires PyYAML, pydantic and transformers.
"""

import inspect
import re
import textwrap
from typing import Any

import yaml

from ...modeling.configuration_liminal import LiminalConfig
from .fields import Model
from .sections import Data, Distill, Hub, Peft, Phase, Recipe

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
_SECTIONS: dict[str, Any] = {"data": Data, "phases": Phase, "peft": Peft, "distill": Distill, "hub": Hub}
_ENCODER = {"encoder": "Hub id or folder of the encoder.", "revision": "Branch, tag or commit of the encoder."}


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
    return "\n".join([*head, *_section(Recipe, _WRITTEN, "")]) + "\n"


def _section(section: Any, written: dict[str, Any] | None, indent: str) -> list[str]:
    """The lines of a section; None writes it as one that is left out."""
    config = inspect.signature(LiminalConfig.__init__).parameters
    about = {**_config_docs(), **_ENCODER} if section is Model else {}
    lines = []
    for key, field in section.model_fields.items():
        text = " ".join((about.get(key) or field.description or "").split())
        lines += textwrap.wrap(text, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        off = "" if written is not None and key in written else "#"
        inner = Model if key == "model" and section is Recipe else _SECTIONS.get(key)
        if inner is not None:
            lines.append(f"{off}{indent}{key}:")
            body = _section(inner, None if off else written[key], f"{indent}    " if inner is Phase else f"{indent}  ")
            if inner is Phase:
                first = next(row for row, line in enumerate(body) if line.startswith("    name:"))
                body[first] = body[first].replace("    name:", "  - name:")
            lines += body
            continue
        value = written[key] if not off else field.get_default(call_default_factory=True)
        if off and section is Model and key in config:
            value = config[key].default
        value = field.examples[0] if off and field.is_required() else value
        value = list(value) if isinstance(value, tuple) else value
        plain = (
            yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).removesuffix("...\n").strip()
        )
        lines.append(f"{off}{indent}{key}: {plain}")
    return lines


def _config_docs() -> dict[str, str]:
    """What the docstring of `LiminalConfig` says on each field."""
    arguments = inspect.getdoc(LiminalConfig).partition("Args:\n")[2].partition("\n\n")[0]
    docs = {}
    for entry in re.split(r"\n    (?=\S)", f"\n{arguments}"):
        names, _, text = entry.partition(":")
        docs.update(dict.fromkeys((name.strip() for name in names.split(",")), text))
    return docs
