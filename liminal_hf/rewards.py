"""Rewards for TRL: how close what a model wrote comes to a point of pleasure, arousal and dominance.

Requires torch and transformers; the trainer that calls a reward is TRL's (`pip install 'liminal_hf[rewards]'`).
"""

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from . import DEFAULT_CHECKPOINT
from .modeling.errors import LiminalError
from .scoring import Scorer


class PADReward:
    """A reward for `GRPOTrainer(reward_funcs=[...])`: 1 at the goal, falling to 0 at a distance of `reach`.

    The distance is the mean of the targets' distances from the goal. The reward is 0 wherever the answer can't be
    relied on, so that such texts don't pay: a text that can't be read (empty, nothing but emoji), one that is unlike
    the training texts (`in_domain` below 0.5: gibberish, code, other languages), one with a wide interval, one of less
    than `least_words` words, and one that says the same again and again. Fitting English words in no order are none of
    these, and pay: keep the KL term of the trainer, and look at what is written.

    Args:
        goal: a number for each target that counts, in label units, such as `{"pleasure": 0.5}`. None takes each row's
            own from the columns of the data set that have the names of targets; None there leaves that target out.
        scorer: reads the texts: a `Scorer`, or the folder or Hub id of a checkpoint.
        reach: the distance at which the reward is 0, in label units, above 0.
        least_in_domain: `in_domain`, 0..1, below which a text pays nothing.
        widest: the widest 80% interval of a target that counts, in label units; sentences have about 0.4.
        least_words: fewer pay nothing.
        most_repeated: the share of pairs of neighbouring words, 0..1, that may have come before in the text. One of
            EmoBank's 8,062 training sentences has more than 0.4.

    Raises:
        LiminalError: a target that the model does not have, a goal outside of the label range, no number.

    Example:
        >>> happy = PADReward({"pleasure": 0.6})
        >>> texts = ["What a lovely surprise!", "Get out of here, now!", "happy happy happy happy", "xqzt blorf wexi"]
        >>> [round(reward, 1) for reward in happy(completions=texts)]
        [0.9, 0.2, 0.0, 0.0]
    """

    def __init__(
        self,
        goal: Mapping[str, float] | None,
        scorer: Scorer | str | os.PathLike = DEFAULT_CHECKPOINT,
        *,
        reach: float = 1.0,
        least_in_domain: float = 0.5,
        widest: float = 0.7,
        least_words: int = 3,
        most_repeated: float = 0.4,
    ) -> None:
        self.scorer = Scorer(scorer) if isinstance(scorer, str | os.PathLike) else scorer
        config = self.scorer.config
        pairs = zip(config.targets, config.trained_targets, strict=True)
        self.targets = [name for name, is_trained in pairs if is_trained]
        self.range = tuple(config.label_range)
        self.goal = None if goal is None else self._checked(goal, "The goal")
        if not reach > 0 or not widest > 0:
            raise LiminalError(f"reach and widest must be above 0, got {reach!r} and {widest!r}.")
        self.reach, self.widest, self.least_in_domain = reach, widest, least_in_domain
        self.least_words, self.most_repeated = least_words, most_repeated
        self.__name__ = "pad_reward"  # what the trainer's log calls it

    def __call__(
        self, prompts: Any = None, completions: Sequence[Any] = (), log_metric: Any = None, **columns: Any
    ) -> list[float]:
        """A reward for each completion.

        Args:
            prompts: not read.
            completions: texts, or conversations: lists of messages, of which those of the assistant are read.
            log_metric: where the trainer takes numbers; it is told the share of completions without a reward.
            columns: what else the data set has; the targets' own where there is no goal.

        Returns:
            Numbers in 0..1; no one of them depends on the other completions.

        Raises:
            LiminalError: there is no goal, neither here nor in the columns; or a column is not as long as them.
        """
        texts = [_text(completion) for completion in completions]
        goals = self._goals(len(texts), columns)
        rewards = [
            self._reward(row, goal) if self._is_text(text) else 0.0
            for text, row, goal in zip(texts, self.scorer.rows(texts), goals, strict=True)
        ]
        if log_metric is not None and rewards:
            log_metric(f"{self.__name__}/zero", sum(reward == 0 for reward in rewards) / len(rewards))
        return rewards

    def _reward(self, row: Mapping[str, Any], goal: Mapping[str, float]) -> float:
        in_domain = row["in_domain"]
        if row["error"] is not None or not goal or (in_domain is not None and in_domain < self.least_in_domain):
            return 0.0
        ends = [(row["interval"] or {}).get(name) for name in goal]
        if any(pair is not None and pair[1] - pair[0] > self.widest for pair in ends):
            return 0.0
        distance = sum(abs(row[name] - value) for name, value in goal.items()) / len(goal)
        return max(0.0, 1 - distance / self.reach)

    def _is_text(self, text: str) -> bool:
        """Whether it has enough words, and says more than the same again."""
        words = [word for word in text.casefold().split() if any(map(str.isalpha, word))]
        pairs = list(pairwise(words))
        repeated = 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
        return len(words) >= self.least_words and repeated <= self.most_repeated

    def _goals(self, rows: int, columns: Mapping[str, Any]) -> list[dict[str, float]]:
        if self.goal is not None:
            return [self.goal] * rows
        given = {name: columns[name] for name in self.targets if name in columns}
        if not given:
            raise LiminalError(
                "There is no goal: PADReward({'pleasure': 0.5}), or a column of the data set with the name of a "
                f"target ({', '.join(self.targets)})."
            )
        if short := [name for name, values in given.items() if len(values) != rows]:
            raise LiminalError(f"The column {short[0]!r} has {len(given[short[0]])} rows for {rows} completions.")
        each = [{name: values[row] for name, values in given.items() if values[row] is not None} for row in range(rows)]
        return [self._checked(goal, f"The goal of row {row}") if goal else {} for row, goal in enumerate(each)]

    def _checked(self, goal: Mapping[str, float], where: str) -> dict[str, float]:
        low, high = self.range
        if not goal or not set(goal) <= set(self.targets):
            raise LiminalError(f"{where} needs a number for any of {', '.join(self.targets)}; got {dict(goal)!r}.")
        for name, value in goal.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise LiminalError(f"{where}: {name} is a number in {low:g}..{high:g}, got {value!r}.")
        return dict(goal)


def _text(completion: Any) -> str:
    """What a model wrote: a text, or what the assistant says in messages."""
    if isinstance(completion, str):
        return completion
    said = [message.get("content") for message in completion or () if message.get("role", "assistant") == "assistant"]
    parts = [part for content in said for part in (content if isinstance(content, list) else [content])]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))
