"""The targets: what a model predicts, by name.

Requires only the standard library.
"""

from typing import Any

from .errors import LiminalError

# The default targets, in this order.
DIMENSIONS = ("pleasure", "arousal", "dominance")
# Marks a missing label, as in the Trainer.
MISSING_LABEL = -100
# A row of answers and a table of metrics have columns of these names.
_RESERVED = (
    *("confidence", "emotion", "emotion_probability", "emotions", "error", "in_domain", "interval", "mean", "octant"),
    *("octant_probability", "percentile", "probability", "text", "truncated", "uncertainty", "verdict", "windows"),
)


def find_pad(targets: list[str]) -> tuple[int, int, int] | None:
    """Columns of pleasure (or valence), arousal and dominance, whatever their case; None where one of them is missing.

    Example:
        >>> find_pad(["Dominance", "Valence", "joy", "Arousal"]), find_pad(["valence", "arousal"])
        ((1, 3, 0), None)
    """
    names = [name.casefold() for name in targets]
    wanted = ("pleasure" if "pleasure" in names else "valence", "arousal", "dominance")
    if not set(wanted) <= set(names):
        return None
    pleasure, arousal, dominance = map(names.index, wanted)
    return pleasure, arousal, dominance


def checked_names(names: Any) -> list[str]:
    """The names of the targets as a list; an error says what is wrong with them."""
    wanted = 'Give a list of different names, for example targets=["valence", "arousal"].'
    if isinstance(names, str) or not isinstance(names, list | tuple) or not names:
        raise LiminalError(f"targets must be a list of one or more names, got {names!r}. {wanted}")
    if wrong := [name for name in names if not isinstance(name, str) or not name.strip()]:
        raise LiminalError(f"targets: {wrong[0]!r} is no name. {wanted}")
    if len(set(names)) < len(names):
        raise LiminalError(f"targets has a name twice: {list(names)}. {wanted}")
    if taken := [name for name in names if name in _RESERVED]:
        raise LiminalError(f"targets: the answers have a column {taken[0]!r} of their own. Use another name for it.")
    return list(names)


def target_names(targets: list[str] | None, fields: dict[str, Any]) -> list[str]:
    """The targets' names from `targets`, else from transformers' fields; takes those out of `fields`."""
    count, by_index, by_name = (fields.pop(name, None) for name in ("num_labels", "id2label", "label2id"))
    if not by_index and by_name:
        by_index = {index: name for name, index in by_name.items()}
    labels = None
    if by_index:
        in_order = sorted((int(index), name) for index, name in by_index.items())
        if [index for index, _ in in_order] != list(range(len(in_order))):
            raise LiminalError(f"id2label must number the targets 0, 1, 2, ..., got {by_index}.")
        labels = [name for _, name in in_order]
        if by_name and by_name != {name: index for index, name in in_order}:
            raise LiminalError(f"id2label and label2id contradict each other: {by_index} and {by_name}.")
    unnamed = labels is None or labels == [f"LABEL_{index}" for index in range(len(labels))]
    if targets is not None:
        names = checked_names(targets)
    elif labels is not None and not unnamed:
        names = checked_names(labels)
    else:
        names = list(DIMENSIONS)
    counts = {"num_labels": count, "id2label": None if labels is None else len(labels)}
    for name, number in counts.items():
        if number is not None and number != len(names):
            raise LiminalError(
                f"{name} asks for {number} targets and there are {len(names)} names ({', '.join(names)}). Name your "
                'targets, and leave num_labels and id2label out: targets=["first", "second", ...].'
            )
    if not unnamed and labels != names:
        raise LiminalError(f"targets {names} and id2label {labels} contradict each other. Give targets alone.")
    return names


def clamped_targets(config: Any) -> str | None:
    """Says that the mean of the labels lies outside of `label_range`, where it does: pipelines would answer its end.

    Example:
        >>> from types import SimpleNamespace
        >>> config = SimpleNamespace(label_mean=[5.0, 0.2], label_range=[-1.0, 1.0], targets=["valence", "arousal"])
        >>> clamped_targets(config)[:67]
        'The mean label of valence (5) lies outside of label_range, -1..1: a'
    """
    low, high = config.label_range
    pairs = zip(config.targets, config.label_mean, strict=True)
    if outside := [f"{name} ({mean:g})" for name, mean in pairs if not low <= mean <= high]:
        return (
            f"The mean label of {', '.join(outside)} lies outside of label_range, {low:g}..{high:g}: a pipeline clamps "
            "to that range, and answers the same for every text. Set label_range to the lowest and highest possible "
            "label, for example label_range=[1, 9]."
        )
    return None
