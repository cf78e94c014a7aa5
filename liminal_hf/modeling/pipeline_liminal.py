"""The task "pad-regression": text or chat in, pleasure, arousal and dominance out, in words that people can use.

Requires torch and transformers.
"""

import bisect
import math
import os
import threading
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Pipeline

from .configuration_liminal import DIMENSIONS, LiminalConfig
from .conversation import ConversationState, Turn, looks_like_chat, read_message, stack
from .memory import ConversationMemory
from .texts import checked_text, with_padding

# A fast tokenizer can't change its padding in one thread while another reads with it.
_TOKENIZING = threading.Lock()
_FORKED = threading.Event()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_TOKENIZING.acquire, after_in_parent=_TOKENIZING.release, after_in_child=_TOKENIZING.release
    )
    os.register_at_fork(after_in_child=_FORKED.set)

# Mehrabian (1996), Pleasure-arousal-dominance: A general framework, Current Psychology 14(4), table of octants.
OCTANTS = {
    (True, True, True): "exuberant",
    (True, True, False): "dependent",
    (True, False, True): "relaxed",
    (True, False, False): "docile",
    (False, True, True): "hostile",
    (False, True, False): "anxious",
    (False, False, True): "disdainful",
    (False, False, False): "bored",
}


def octant(pad: tuple[float, float, float] | list[float], midpoint: float = 0.0) -> str:
    """Mehrabian's name for the octant of PAD space that a point lies in; the midpoint counts as high.

    Example:
        >>> octant((-0.4, 0.3, -0.2))
        'anxious'
    """
    return OCTANTS[(pad[0] >= midpoint, pad[1] >= midpoint, pad[2] >= midpoint)]


def percentile(value: float, quantiles: list[float]) -> float:
    """Where a value lies among evenly spaced quantiles, 0..100, linear in between.

    Example:
        >>> percentile(0.25, [0.0, 0.5, 1.0])
        25.0
    """
    last = len(quantiles) - 1
    right = bisect.bisect_left(quantiles, value)
    if right == 0:
        return 0.0
    if right > last:
        return 100.0
    low, high = quantiles[right - 1], quantiles[right]
    return 100.0 * (right - 1 + (value - low) / (high - low)) / last


def overall_confidence(uncertainty: list[float], config: LiminalConfig) -> float:
    """One number in 0..1 that falls as the expected error grows: exp(-mean of uncertainty / spread of the labels).

    A model that knows no more than the mean of its labels has 0.37.

    Example:
        >>> round(overall_confidence([0.0, 0.0, 0.0], LiminalConfig(pooled_size=8)), 3)
        1.0
    """
    relative = [u / s for u, s in zip(uncertainty, config.label_std, strict=True)]
    return math.exp(-sum(relative) / len(relative))


def describe(logits: list[float], uncertainty: list[float] | None, config: LiminalConfig) -> dict[str, Any]:
    """One row of the task's result from one row of the model's.

    Args:
        logits: PAD in label units; clamped to the config's `label_range`.
        uncertainty: standard deviation per dimension, or None.
        config: the model's config.

    Example:
        >>> row = describe([0.2, 2.0, -0.1], None, LiminalConfig(pooled_size=8))
        >>> row["arousal"], row["octant"]
        (1.0, 'dependent')
    """
    low, high = config.label_range
    pad = [min(max(value, low), high) for value in logits]
    row: dict[str, Any] = dict(zip(DIMENSIONS, pad, strict=True))
    row["confidence"] = None if uncertainty is None else overall_confidence(uncertainty, config)
    row["octant"] = octant(pad, (low + high) / 2)
    row["uncertainty"] = None if uncertainty is None else dict(zip(DIMENSIONS, uncertainty, strict=True))
    row["percentile"] = (
        None
        if config.prediction_quantiles is None
        else {
            name: percentile(value, quantiles)
            for name, value, quantiles in zip(DIMENSIONS, pad, config.prediction_quantiles, strict=True)
        }
    )
    return row


class PADRegressionPipeline(Pipeline):
    """`pipeline("pad-regression")`: a row of PAD for each text, or for each turn of a conversation.

    Each row is a dict with `pleasure`, `arousal`, `dominance` (clamped to the label range), `confidence` (0..1),
    `octant` (Mehrabian 1996), `uncertainty` (a standard deviation per dimension, in label units) and `percentile`
    (per dimension, among this model's own predictions on its training texts). What the model does not have is None.

    Chat messages are read in order, and what a speaker said before is remembered: `{"role": ..., "content": ...}`,
    or with a `speaker` where several people share a role. Each speaker has a memory of its own. These rows have three
    keys more, `turn` (0, 1, ..., over all speakers), `role` and `speaker`, and with `memory` also `memory`, the
    `ConversationState` after that turn. Where conversations are fed turn by turn, pass that on as `memory`. A head
    without memory reads each turn by itself.

    Args of a call:
        inputs: a text or a list of texts; a message, a conversation (list of messages) or a list of conversations. One
            input gives one row, a list a list of the same shape.
        memory: for chat only: a `ConversationState` to go on from, or a list of one for each conversation; True starts
            anew. No state that was given is changed.
        batch_size: texts at a time, or conversations whose turns are read together; no row depends on it.
        max_length: tokens per text, longer ones are truncated; default the config's `max_seq_length`.
        num_outer_steps: K of this call.

    Raises:
        ValueError: an input that is no text or message, is empty, or holds a lone surrogate; a memory of another model.
            The message names the conversation and the message in it.

    Example:
        >>> from transformers import pipeline
        >>> import liminal_hf
        >>> pad = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)
        >>> pad("What a lovely surprise!")["octant"]
        'exuberant'
        >>> row = pad({"role": "user", "content": "What a lovely surprise!"}, memory=True)
        >>> row = pad({"role": "user", "content": "But now I must go."}, memory=row["memory"])
        >>> row["turn"], row["speaker"], row["memory"].turns
        (1, 'user', 2)
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.tokenizer is not None:
            with_padding(self.tokenizer)

    def _sanitize_parameters(
        self, max_length: int | None = None, num_outer_steps: int | None = None, **unknown: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise ValueError(
                f"pad-regression does not take {', '.join(map(repr, unknown))}. It takes max_length, num_outer_steps "
                "and batch_size, and memory with chat messages."
            )
        preprocess = {} if max_length is None else {"max_length": max_length}
        forward = {} if num_outer_steps is None else {"num_outer_steps": num_outer_steps}
        return preprocess, forward, {}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """See the class."""
        if looks_like_chat(inputs):
            return self._chat(inputs, **kwargs)
        if kwargs.pop("memory", None) is not None:
            raise ValueError(
                "memory= goes with chat messages, so that it is known who speaks: "
                'pad({"role": "user", "content": text}, memory=memory)'
            )
        if isinstance(inputs, list | tuple):
            inputs = [checked_text(text, f"Text {index}") for index, text in enumerate(inputs)]
            if not inputs:
                return []
        elif isinstance(inputs, str) or not hasattr(inputs, "__iter__"):
            checked_text(inputs)
        return super().__call__(inputs, **kwargs)

    def _chat(
        self,
        inputs: Any,
        memory: ConversationState | Sequence[ConversationState] | bool | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Rows in the shape of the input: a message, a conversation, or several."""
        single = isinstance(inputs, dict)
        several = not single and any(isinstance(item, list | tuple) for item in inputs)
        conversations = inputs if several else [[inputs] if single else inputs]
        turns = []
        for index, conversation in enumerate(conversations):
            where = f"Conversation {index}, message" if several else "Message"
            if not isinstance(conversation, list | tuple):
                raise ValueError(
                    f"Conversation {index} must be a list of messages, got {type(conversation).__name__}. Put a single "
                    'message in a list too: [{"role": ..., "content": ...}]'
                )
            turns.append([read_message(message, f"{where} {place}") for place, message in enumerate(conversation)])
            for place, turn in enumerate(turns[-1]):
                checked_text(turn.text, f"{where} {place}")
        states = self._states(memory, len(turns), several)
        preprocess, forward, _ = self._sanitize_parameters(**kwargs)
        preprocess, forward = {**self._preprocess_params, **preprocess}, {**self._forward_params, **forward}
        size = batch_size or self._batch_size or 32
        rows: list[list[dict[str, Any]]] = []
        for start in range(0, len(turns), size):
            rows += self._read(turns[start : start + size], states[start : start + size], preprocess, forward)
        if memory is None or memory is False:
            for row in (row for conversation in rows for row in conversation):
                del row["memory"]
        return rows if several else rows[0][0] if single else rows[0]

    def _states(self, memory: Any, number: int, several: bool) -> list[ConversationState]:
        if memory is None or isinstance(memory, bool):
            return [ConversationState() for _ in range(number)]
        states = list(memory) if several and isinstance(memory, list | tuple) else [memory]
        # By what it has and not by its class: code that came with a checkpoint has a class of its own.
        if len(states) != number or not all(hasattr(state, "turns") and hasattr(state, "after") for state in states):
            raise ValueError(
                f"memory must be a ConversationState{f' for each of the {number} conversations' if several else ''}: "
                "the `memory` of the last row, ConversationState.load(path), or True to start anew. Got "
                f"{[type(state).__name__ for state in states][:5]}."
            )
        config, has_memory = self.model.config, self.model.base.head.has_memory
        for index, state in enumerate(states):
            for speaker, remembered in state.items():
                try:
                    if not has_memory:
                        raise ValueError(f"head {config.head!r} has no memory.")
                    remembered.check(1, config.memory_slots, config.latent_size)
                except ValueError as error:
                    raise ValueError(
                        f"The memory of {speaker!r} in conversation {index} is not this model's: {error}"
                    ) from None
        return states

    def _read(
        self,
        conversations: list[list[Turn]],
        states: list[ConversationState],
        preprocess: dict[str, Any],
        forward: dict[str, Any],
    ) -> list[list[dict[str, Any]]]:
        """Rows of conversations that are read side by side: turn t of all of them in one call of the model."""
        has_memory = self.model.base.head.has_memory
        states = list(states)
        rows: list[list[dict[str, Any]]] = [[] for _ in conversations]
        for time in range(max(map(len, conversations), default=0)):
            still = [index for index, turns in enumerate(conversations) if time < len(turns)]
            turns = [conversations[index][time] for index in still]
            batch = self._tokenize([turn.text for turn in turns], **preprocess)
            if has_memory:
                unknown = self.model.initial_memory(1).to("cpu")
                batch["memory"] = stack(
                    states[index].get(turn.speaker, unknown) for index, turn in zip(still, turns, strict=True)
                )
            output = self.forward(batch, **forward)
            after = ConversationMemory(**output.pop("memory")) if has_memory else None
            for place, (index, turn) in enumerate(zip(still, turns, strict=True)):
                memory = None if after is None else after.rows(torch.tensor([place]))
                number = states[index].turns
                states[index] = states[index].after(turn.speaker, memory)
                row = {name: value[place : place + 1] for name, value in output.items()}
                rows[index].append(
                    {
                        "turn": number,
                        "role": turn.role,
                        "speaker": turn.speaker,
                        **self.postprocess(row),
                        "memory": states[index],
                    }
                )
        return rows

    def _tokenize(self, texts: list[str], max_length: int | None = None) -> dict[str, Any]:
        limit = max_length or self.model.config.max_seq_length
        with _TOKENIZING:
            return dict(
                self.tokenizer(texts, padding=len(texts) > 1, truncation=True, max_length=limit, return_tensors="pt")
            )

    def preprocess(self, inputs: Any, max_length: int | None = None) -> dict[str, torch.Tensor]:
        """Tokens of one text, truncated."""
        return self._tokenize([checked_text(inputs)], max_length)

    def _forward(self, model_inputs: Any, **kwargs: Any) -> dict[str, Any]:
        if _FORKED.is_set():
            # OpenMP's threads do not come through a fork, and a process that waits for them waits for ever.
            _FORKED.clear()
            torch.set_num_threads(1)
        if "memory" in model_inputs:
            # `forward` moves it to the model's device, and makes it a plain ModelOutput on the way.
            model_inputs = {**model_inputs, "memory": ConversationMemory(**model_inputs["memory"])}
        output = self.model(**model_inputs, **kwargs)
        kept = {"logits": output.logits}
        if output.uncertainty is not None:
            kept["uncertainty"] = output.uncertainty
        if "memory" in model_inputs:
            kept["memory"] = output.memory
        return kept

    def postprocess(self, model_outputs: Any) -> dict[str, Any]:
        """One row from one row."""
        uncertainty = model_outputs.get("uncertainty")
        return describe(
            model_outputs["logits"][0].double().tolist(),
            None if uncertainty is None else uncertainty[0].double().tolist(),
            self.model.config,
        )
