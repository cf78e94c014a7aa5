"""A recipe's file: reading it, putting it over its `base`, and replacing values by dotted key.

Requires PyYAML.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ...modeling.errors import LiminalError

_MAX_BYTES = 1_000_000


class RecipeError(LiminalError):
    """A recipe that can't be followed; the message says where, what is allowed and what to write instead."""


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    if not path.is_file():
        raise RecipeError(f"There is no recipe at {path}. The ready ones are in hub_configs/, one YAML file each.")
    if path.stat().st_size > _MAX_BYTES:
        raise RecipeError(f"{path} has {path.stat().st_size} bytes; a recipe has at most {_MAX_BYTES}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not plain YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must hold a mapping such as `model:`, `data:` and `phases:`.")
    return content


def with_base(content: Mapping[str, Any], folder: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's content with absolute paths, over that of its `base`.

    Args:
        content: as the YAML holds it.
        folder: where its relative paths start.
        seen: the recipes that have led here by their `base`.
    """
    result = copy.deepcopy(dict(content))
    for section, key in (("data", "files"), ("distill", "teachers"), ("distill", "files")):
        paths = result[section].get(key) if isinstance(result.get(section), dict) else None
        if isinstance(paths, dict | list):
            for index, path in list(paths.items() if isinstance(paths, dict) else enumerate(paths)):
                paths[index] = str((folder / path).resolve()) if isinstance(path, str) else path
    name = result.pop("base", None)
    if name is None:
        return result
    path = (folder / str(name)).resolve()
    if path.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"base: {name!r} is not the name of a recipe. Give the path of a .yaml file.")
    if path in seen:
        raise RecipeError(f"base: {path} leads back to itself. Remove `base:` from one of the recipes.")
    base = with_base(read(path), path.parent, (*seen, path))
    base.pop("name", None)
    data = result.get("data")
    if isinstance(data, dict) and ("dataset" in data or "train" in (data.get("files") or {})):
        base.pop("hub", None)  # its licence and tags are those of the base's data
        base["data"] = {key: value for key, value in base["data"].items() if key not in ("dataset", "files")}
    phases = result.get("phases")
    if phases is not None:
        result["phases"] = _merge_phases(base.get("phases") or [], phases)
    return _merge(base, result)


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes over it, key by key; a list replaces a list."""
    merged = {**base, **changes}
    for key in base.keys() & changes.keys():
        if isinstance(base[key], dict) and isinstance(changes[key], dict):
            merged[key] = _merge(base[key], changes[key])
    return merged


def _merge_phases(base: list[dict[str, Any]], changes: Any) -> Any:
    by_name = {phase.get("name"): phase for phase in base}
    if isinstance(changes, dict):
        if wrong := [name for name, fields in changes.items() if not isinstance(fields, dict)]:
            raise RecipeError(f"phases.{wrong[0]} must hold the phase's keys, got {changes[wrong[0]]!r}.")
        named = {name: {"name": name, **fields} for name, fields in changes.items()}
        return [*(_merge(phase, named.pop(phase.get("name"), {})) for phase in base), *named.values()]
    if not isinstance(changes, list):
        return changes
    if missing := [name for name in changes if isinstance(name, str) and name not in by_name]:
        raise RecipeError(f"phases: the base has no phase {missing[0]!r}; it has {', '.join(map(str, by_name))}.")
    return [by_name[phase] if isinstance(phase, str) else phase for phase in changes]


def replace_value(node: Any, path: list[str], value: Any, whole: str) -> None:
    """Puts a value into nested dicts and lists, in place.

    Args:
        node: the dict or list.
        path: keys from there to the value; an item of a list is named by its `name`, its position, or `*` for all.
        value: the new value.
        whole: the dotted key, for the error.
    """
    key, rest = path[0], path[1:]
    if isinstance(node, list):
        names = [item.get("name") if isinstance(item, dict) else index for index, item in enumerate(node)]
        chosen: list[Any] = [index for index, name in enumerate(names) if key in ("*", str(index), name)]
        if not chosen:
            raise RecipeError(f"Override {whole!r}: there is no {key!r} in {names}.")
    elif isinstance(node, dict):
        chosen = [key]
    else:
        raise RecipeError(f"Override {whole!r}: {key!r} is inside a plain value, which has no keys.")
    for index in chosen:
        if not rest:
            node[index] = value
        else:
            if isinstance(node, dict) and node.get(index) is None:
                node[index] = {}
            replace_value(node[index], rest, value, whole)
