"""A table from the names that a `config.json` may hold to the building blocks behind them.

Requires only the standard library. There is one registry each for heads, poolers and losses.
"""

import difflib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

T = TypeVar("T")


class Registry(dict[str, Any]):
    """A `dict` from name to building block that knows where else to look.

    A missing name is first looked up among the entry points of installed distributions (group
    `liminal_hf.<kind>s`, for example `liminal_hf.heads`); if none has it, the error lists the known names.

    Args:
        kind: what the entries are, in the singular: "head", "pooler" or "loss".

    Raises:
        KeyError: the name is neither registered nor offered by an installed distribution.

    Example:
        >>> LOSSES = Registry("loss")
        >>> @LOSSES.register("absolute")
        ... def absolute(errors): return abs(errors)
        >>> LOSSES["absolute"](-3)
        3
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.group = f"liminal_hf.{kind}es" if kind.endswith("s") else f"liminal_hf.{kind}s"

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files a class or function under `name`."""

        def file(entry: T) -> T:
            self[name] = entry
            return entry

        return file

    def __missing__(self, name: str) -> Any:
        for entry_point in entry_points(group=self.group, name=name):
            self[name] = entry_point.load()
            return self[name]
        close = difflib.get_close_matches(str(name), list(self), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise KeyError(
            f"Unknown {self.kind} {name!r}.{hint} Known: {', '.join(sorted(self))}. A {self.kind} from another package "
            f"is found when that package is installed and offers the name as an entry point of group {self.group!r}."
        )

    def plugin_distribution(self, name: str) -> str | None:
        """The installed distribution that the entry `name` came from, as 'name==version'; None for our own."""
        for entry_point in entry_points(group=self.group, name=name):
            # A plugin can't take over a name that is already registered.
            if entry_point.dist is not None and self[name] is entry_point.load():
                return f"{entry_point.dist.name}=={entry_point.dist.version}"
        return None

    def entry_for(self, config: Any, name: str) -> Any:
        """The entry that a model with this config is built from; `config.plugins` notes the plugin that it came from.

        Args:
            config: a `LiminalConfig`.
            name: the name that the config holds for this kind of entry.

        Raises:
            KeyError: the name is unknown; if the config notes a distribution for it, the message says to install that.
        """
        try:
            entry = self[name]
        except KeyError as error:
            distribution = config.plugins.get(self.kind)
            if distribution is None:
                raise
            raise KeyError(
                f"This model was built with the {self.kind} {name!r} of {distribution}, which is not installed here. "
                f"Install it: pip install '{distribution}'"
            ) from error
        distribution = self.plugin_distribution(name)
        others = {kind: value for kind, value in config.plugins.items() if kind != self.kind}
        config.plugins = others if distribution is None else {**others, self.kind: distribution}
        return entry
