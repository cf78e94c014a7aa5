"""A table from the names that a `config.json` may hold to the building blocks behind them.

Requires only the standard library. There is one registry each for heads, poolers and losses.
"""

import difflib
import importlib
from collections.abc import Callable, Iterator, MutableMapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from .errors import LiminalError

T = TypeVar("T")


class UnknownNameError(LiminalError, KeyError):
    """No building block has this name; also a `KeyError`, as any mapping raises it."""

    __str__ = ValueError.__str__  # a KeyError would put the message in quotes


class Registry(MutableMapping[str, Any]):
    """A mapping from name to building block, of ours and of every installed plugin.

    Plugins are the entry points of installed distributions in the group `liminal_hf.<kind>s`, for example
    `liminal_hf.heads`. A plugin can't take over a name of ours.

    Args:
        kind: what the entries are, in the singular: "head", "pooler" or "loss".
        siblings: modules beside this one that register entries; they are imported when a name is first looked up.

    Raises:
        UnknownNameError: no entry has the name; the message lists the names that there are.

    Example:
        >>> LOSSES = Registry("loss")
        >>> @LOSSES.register("absolute")
        ... def absolute(errors): return abs(errors)
        >>> LOSSES["absolute"](-3), "absolute" in LOSSES, "squared" in LOSSES
        (3, True, False)
    """

    def __init__(self, kind: str, siblings: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.group = f"liminal_hf.{kind}es" if kind.endswith("s") else f"liminal_hf.{kind}s"
        self._siblings = siblings
        self._entries: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a class or function under `name`."""

        def add(entry: T) -> T:
            self[name] = entry
            return entry

        return add

    def own_names(self) -> list[str]:
        """The names that are registered here, without those of plugins that nothing has asked for yet."""
        for sibling in self._siblings:
            importlib.import_module(f"{__package__}.{sibling}")
        self._siblings = ()
        return list(self._entries)

    def __getitem__(self, name: str) -> Any:
        if name not in self.own_names():
            plugins = list(entry_points(group=self.group, name=name)) if isinstance(name, str) else []
            if not plugins:
                raise UnknownNameError(self._unknown(name))
            self._entries[name] = plugins[0].load()
        return self._entries[name]

    def __setitem__(self, name: str, entry: Any) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.own_names(), *entry_points(group=self.group).names]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _unknown(self, name: object) -> str:
        close = difflib.get_close_matches(str(name), list(self), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return (
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
            UnknownNameError: no entry has the name; if the config notes a distribution for it, the message names that.
        """
        try:
            entry = self[name]
        except UnknownNameError as error:
            distribution = config.plugins.get(self.kind)
            if distribution is None:
                raise
            raise UnknownNameError(
                f"This model was built with the {self.kind} {name!r} of {distribution}, which is not installed here. "
                f"If you trust its authors, install it: pip install '{distribution}'"
            ) from error
        distribution = self.plugin_distribution(name)
        others = {kind: value for kind, value in config.plugins.items() if kind != self.kind}
        config.plugins = others if distribution is None else {**others, self.kind: distribution}
        return entry
