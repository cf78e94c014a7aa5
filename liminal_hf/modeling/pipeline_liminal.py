"""The tasks "pad-regression" and "text-classification": text or chat in, a number per target out.

Requires torch and transformers.
"""

import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline, TextClassificationPipeline

from .answers import EMOTIONS, label_shares, outside
from .conversation import (
    ConversationState,
    Turn,
    TurnRow,
    after_turn,
    check_times,
    checked_states,
    labels_of,
    looks_like_chat,
    read_messages,
    stack,
)
from .encoders import load_tokenizer, mixes_padding
from .errors import LiminalError
from .memory import ConversationMemory
from .person_prior import PersonPrior
from .rows import OCTANTS, describe, octant, percentile
from .senses import sense
from .targets import clamped_targets
from .texts import (
    UNREADABLE,
    as_list,
    bare,
    check_no_table,
    checked_max_length,
    checked_text,
    is_container,
    one_thread_after_a_fork,
    text_error,
    tokenize,
    with_padding,
)
from .windows import ANSWERS, read_windows, split

__all__ = ["OCTANTS", "PADRegressionPipeline", "TargetClassificationPipeline", "describe", "octant", "percentile"]

logger = logging.getLogger(__name__)


class PADRegressionPipeline(Pipeline):
    """`pipeline("pad-regression")`: a row of numbers for each text, or for each turn of a conversation.

    Each row is a dict: every target (`pleasure`, `arousal`, `dominance`, or the names that the model was trained with;
    clamped to the label range), `uncertainty` (a standard deviation per target, in label units), `interval` (per
    target, holds the label with a probability of 80%), `probability` (per target, of being above the neutral point),
    `verdict` (per target, such as "negative" or "neutral"; "unclear" where none is more likely than not), `octant`
    (Mehrabian 1996; "neutral" where none is more likely than not) and `octant_probability`, `emotions` (words with a
    probability each, the likeliest first; see `liminal_hf.emotion_pad`), `in_domain` (0..1, how likely the text is one
    like the training texts; texts in another language, code and gibberish are not), `percentile` (per target, among
    this model's own predictions on its training texts), `confidence` (deprecated, goes with the next version: use
    `uncertainty` or `interval`), `truncated` (whether the end of the text was left out), `windows` and `error`. What
    the model does not have is None: a target that was never trained, an octant without all of pleasure (or valence),
    arousal and dominance.

    A text that is longer than the model reads at once is read sentence by sentence; its row is the mean, weighted by
    length (see `liminal_hf.timeline`), and `windows` has `start`, `end` (offsets in characters) and the targets of each
    sentence. The turn of a conversation is read in one piece, and its end left out.

    A text that can't be read never stops the others: its row has only None and says why in `error` (empty, missing, not
    a text, nothing but unknown tokens such as emoji to MiniLM). Rows in are rows out.

    Texts may come as a list, tuple, pandas Series, numpy or Arrow array, `datasets.Column`, each as `{"text": ...}` or
    bare: the answer is a list (`SignalRegressionPipeline` takes sounds and images likewise). A torch `Dataset`, a
    `KeyDataset`, a generator and any other iterator without a length are read as they are asked for, row by row.

    Chat messages are read in order, and what a speaker said before is remembered: `{"role": ..., "content": ...}`,
    with a `name` (or `speaker`) where several people share a role. Each speaker has a memory of its own. These rows
    have three keys more, `turn` (0, 1, ..., over all speakers), `role` and `speaker`, and with `memory` also `memory`,
    the `ConversationState` after that turn, which is left out of JSON. Where conversations are fed turn by turn, pass
    that on as `memory`. A head without memory reads each turn by itself. Messages of `system`, `developer`, `tool` and
    `function` are no person's: their row has an `error`, no numbers and no `turn`, and so has a message without a text
    (a tool call).

    A message may carry how its speaker rates it, `"pad": {"pleasure": 0.5}` in label units, for any of the targets, and
    a `time`, a number that never falls. From the turn after a speaker's first rating on, rows have `adjusted`: the
    answer by target, shifted by what the earlier ratings say of that speaker (see `PersonMemory`). The attribute
    `person_prior` of the pipeline says what is known of persons; None: `PersonPrior.of_model`, its own or a guess.

    Args of a call:
        inputs: a text or several; a message, a conversation (several messages) or a list of conversations. One
            input gives one row, several a list of the same shape.
        memory: for chat only: a `ConversationState` to go on from, or a list of one for each conversation; True starts
            anew. No state that was given is changed.
        roles: for chat only: names of the roles that are read, instead of all but those above.
        batch_size: texts at a time, or conversations whose turns are read together; no row depends on it.
        num_workers: processes that tokenize a `Dataset`.
        max_length: tokens that are read at once; default the config's `max_seq_length`.
        truncation: True leaves out the end of a text that is longer, and reads no windows.
        num_outer_steps: K of this call.

    Raises:
        LiminalError: a single text that can't be read; a whole table instead of its column; a message without role or
            content (the error names the conversation and the message in it); a memory of another model; a
            `max_length` that the encoder does not take.

    Example:
        >>> from transformers import pipeline
        >>> import liminal_hf
        >>> pad = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)
        >>> pad("What a lovely surprise!")["octant"]
        'exuberant'
        >>> [row["error"] for row in pad(["Good morning.", None])]
        [None, 'no text (missing value)']
        >>> row = pad({"role": "user", "content": "What a lovely surprise!"}, memory=True)
        >>> row = pad({"role": "user", "content": "But now I must go."}, memory=row["memory"])
        >>> row["turn"], row["speaker"], row["memory"].turns
        (1, 'user', 2)
    """

    _NAME, _MORE = "pad-regression", ", and memory and roles with chat messages"
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = None  # where there is one; a model of sounds or images has none

    def __new__(cls, *args: Any, model: Any = None, **kwargs: Any) -> Any:
        """For a model that reads sounds or images an object of the class that does."""
        if cls is not PADRegressionPipeline or sense((model or args[0]).config) == "text":
            return super().__new__(cls)
        from .pipeline_senses import SignalRegressionPipeline

        return super().__new__(SignalRegressionPipeline)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config, tokenizer = self.model.config, getattr(self, "tokenizer", None)
        if tokenizer is None and config.text_config is not None and sense(config) == "text":
            tokenizer = load_tokenizer(self.model)
        self.tokenizer: Any = None if tokenizer is None else with_padding(tokenizer)
        self.person_prior: PersonPrior | None = None
        if problem := clamped_targets(config):
            logger.warning(problem)

    def _sanitize_parameters(
        self,
        max_length: int | None = None,
        num_outer_steps: int | None = None,
        truncation: bool | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise LiminalError(
                f"{self._NAME} does not take {', '.join(map(repr, unknown))}. It takes max_length, truncation, "
                f"num_outer_steps, batch_size and num_workers{self._MORE}."
            )
        preprocess: dict[str, Any] = {} if truncation is None else {"truncation": bool(truncation)}
        forward = {}
        if max_length is not None:
            preprocess["max_length"] = checked_max_length(max_length, self.model.config, self.tokenizer)
        if num_outer_steps is not None:
            if isinstance(num_outer_steps, bool) or not isinstance(num_outer_steps, int) or num_outer_steps < 1:
                raise LiminalError(f"num_outer_steps must be a whole number, at least 1, got {num_outer_steps!r}.")
            forward["num_outer_steps"] = num_outer_steps
        return preprocess, forward, {}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """See the class."""
        check_no_table(inputs)
        has_indices = isinstance(inputs, Dataset) and not isinstance(inputs, IterableDataset)
        if not is_container(inputs):
            first = inputs
        elif has_indices:
            first = [inputs[0]] if len(inputs) else []
        elif hasattr(inputs, "__len__"):
            inputs = first = as_list(inputs)
        else:
            rest = iter(inputs)
            first = list(islice(rest, 1))
            inputs = (item for item in chain(first, rest))  # transformers takes a generator and no other iterator
        if is_container(first) and not first:
            return []
        if looks_like_chat(first):
            if isinstance(inputs, list | Mapping):
                return self._chat(inputs, **kwargs)
            return (
                self._chat(as_list(inputs), **kwargs)
                if isinstance(first[0], Mapping)
                else self._stream(inputs, **kwargs)
            )
        for name in ("memory", "roles"):
            if kwargs.pop(name, None) is not None:
                raise LiminalError(
                    f"{name}= goes with chat messages, so that it is known who speaks: "
                    f'pad({{"role": "user", "content": text}}, {name}={name})'
                )
        if mixes_padding(self.model.config):
            kwargs["batch_size"] = 1
        return super().__call__(inputs, **kwargs)

    def run_single(self, inputs: Any, preprocess_params: Any, forward_params: Any, postprocess_params: Any) -> Any:
        """One text; what can't be read is an error."""
        checked_text(bare(inputs))
        tokens = self.preprocess(inputs, **preprocess_params)
        # Of a text in windows it is known afterwards.
        read = tokens if tokens["error"][0] is not None else self.forward(tokens, **forward_params)
        if read["error"][0] is not None:
            raise LiminalError(f"The text can't be read: {read['error'][0]}.")
        return self.postprocess(read, **postprocess_params)

    def _stream(self, conversations: Any, batch_size: int | None = None, **kwargs: Any) -> Iterator[Any]:
        """Rows of conversations that are read as they are asked for."""
        size = batch_size or self._batch_size or 32
        some_at = range(len(conversations)) if hasattr(conversations, "__len__") else None
        items = iter(conversations) if some_at is None else map(conversations.__getitem__, some_at)
        while some := list(islice(items, size)):
            yield from self._chat(some, batch_size=size, **kwargs)

    def _chat(
        self,
        inputs: Any,
        memory: ConversationState | Sequence[ConversationState] | bool | None = None,
        roles: Iterable[str] | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Rows in the shape of the input: a message, a conversation, or several."""
        single = isinstance(inputs, Mapping)
        several = not single and any(isinstance(item, list | tuple) for item in inputs)
        conversations = inputs if several else [[inputs] if single else inputs]
        if isinstance(roles, str):
            raise LiminalError(f'roles must be a list of names, such as ["user", "assistant"], got {roles!r}.')
        roles = None if roles is None else frozenset(roles)
        turns = []
        for index, conversation in enumerate(conversations):
            where = f"Conversation {index}, message" if several else "Message"
            if not isinstance(conversation, list | tuple):
                raise LiminalError(
                    f"Conversation {index} must be a list of messages, got {type(conversation).__name__}. Put a single "
                    'message in a list too: [{"role": ..., "content": ...}]'
                )
            turns.append(read_messages(conversation, where, self.model.config, roles))
        has_memory = self.model.base.head.has_memory
        states = checked_states(memory, len(turns), several, self.model.config, has_memory)
        check_times(turns, states, several)
        preprocess, forward, _ = self._sanitize_parameters(**kwargs)
        preprocess, forward = {**self._preprocess_params, **preprocess}, {**self._forward_params, **forward}
        size = 1 if mixes_padding(self.model.config) else batch_size or self._batch_size or 32
        rows: list[list[Any]] = []
        for start in range(0, len(turns), size):
            rows += self._read(turns[start : start + size], states[start : start + size], preprocess, forward)
        if memory is None or memory is False:
            rows = [[dict(row) for row in conversation] for conversation in rows]
        return rows if several else rows[0][0] if single else rows[0]

    def _read(
        self,
        conversations: list[list[Turn]],
        states: list[ConversationState],
        preprocess: dict[str, Any],
        forward: dict[str, Any],
    ) -> list[list[TurnRow]]:
        """Rows of conversations that are read side by side: turn t of all of them in one call of the model.

        A turn with an error leaves no trace in the memory, and is not counted.
        """
        has_memory = self.model.base.head.has_memory
        states = list(states)
        rows: list[list[TurnRow]] = [[] for _ in conversations]
        for time in range(max(map(len, conversations), default=0)):
            turns = {index: turns[time] for index, turns in enumerate(conversations) if time < len(turns)}
            readable = [index for index, turn in turns.items() if turn.error is None]
            answers = {index: describe(None, None, self.model.config, error=turns[index].error) for index in turns}
            memories: dict[int, ConversationMemory] = {}
            if readable:
                # A turn is one step of the memory, so it is read in one piece.
                batch = self._encode([turns[index].text for index in readable], **{**preprocess, "truncation": True})
                if has_memory:
                    unknown = self.model.initial_memory(1).to("cpu")
                    batch["memory"] = stack(states[index].get(turns[index].speaker, unknown) for index in readable)
                output = self.forward(batch, **forward)
                after = ConversationMemory(**output.pop("memory")) if has_memory else None
                for position, index in enumerate(readable):
                    one = {name: value[position : position + 1] for name, value in output.items()}
                    answers[index] = self._row(one)
                    if after is not None:
                        memories[index] = after.rows(torch.tensor([position]))
            for index, turn in turns.items():
                was_read = answers[index]["error"] is None
                about = {"turn": states[index].turns if was_read else None, "role": turn.role, "speaker": turn.speaker}
                if was_read:
                    before, config = states[index].persons.get(turn.speaker), self.model.config
                    adjusted, person = after_turn(turn, answers[index], before, config, self.person_prior)
                    about |= {} if adjusted is None else {"adjusted": adjusted}  # type: ignore[dict-item]
                    states[index] = states[index].after(turn.speaker, memories.get(index), person)
                    states[index].labels = labels_of(config)
                rows[index].append(TurnRow({**about, **answers[index]}, states[index]))
        return rows

    def _encode(self, texts: list[Any], max_length: int | None = None, truncation: bool = False) -> dict[str, Any]:
        """Texts as one batch of tokens, with `truncated`, `windows` and `error`; what can't be read has one token."""
        errors = [text_error(text) for text in texts]
        if max_length is None:  # as `checked_max_length`, without looking up the limit for a millisecond
            max_length = min(self.model.config.max_seq_length, self.model.base.max_tokens or sys.maxsize)
        readable = [str(text) if error is None else "." for text, error in zip(texts, errors, strict=True)]
        tokens = tokenize(self.tokenizer, readable, max_length)
        is_long = [cut and error is None for cut, error in zip(tokens.truncated, errors, strict=True)]
        parts: list[Any] = [
            split(text, self.tokenizer, max_length) if cut and not truncation else None
            for text, cut in zip(readable, is_long, strict=True)
        ]
        rows = zip(errors, tokens.unreadable, parts, strict=True)
        return {
            **tokens.batch(self.tokenizer, list(range(len(texts)))),
            "truncated": [cut and truncation for cut in is_long],
            "windows": parts,
            "error": [error or (UNREADABLE if unknown and not part else None) for error, unknown, part in rows],
        }

    def preprocess(self, inputs: Any, max_length: int | None = None, truncation: bool = False) -> dict[str, Any]:
        """Tokens of one text, with `truncated`, `windows` and `error`."""
        return self._encode([bare(inputs)], max_length, truncation)

    def get_inference_context(self) -> Any:
        """Without what gradients need, which takes a part of the time of a short text."""
        return torch.inference_mode

    def _forward(self, model_inputs: Any, **kwargs: Any) -> dict[str, Any]:
        one_thread_after_a_fork()
        inputs = dict(model_inputs)
        # Batches of one are lists of one, and a batch from transformers' loader is a list of those.
        about = {
            name: [value[0] if isinstance(value, list) else value for value in inputs.pop(name)]
            for name in ("truncated", "windows", "error")
        }
        if "memory" in inputs:
            # `forward` moves it to the model's device, and makes it a plain ModelOutput on the way.
            inputs["memory"] = ConversationMemory(**inputs["memory"])
        output = self.model(**inputs, **kwargs)
        answers: dict[str, Any] = {name: output[name] for name in ANSWERS if output.get(name) is not None}
        if "memory" in inputs:
            answers["memory"] = output.memory
        for index, parts in enumerate(about["windows"]):
            if parts is None:
                continue
            found = read_windows(parts, self.model, self.tokenizer, kwargs)
            about["windows"][index], about["error"][index] = found["windows"], found["error"]
            for name in answers.keys() & found["whole"].keys():
                answers[name][index] = torch.as_tensor(found["whole"][name]).to(answers[name])
        return {**answers, **about}

    def _row(self, model_outputs: Any) -> dict[str, Any]:
        uncertainty, in_domain = model_outputs.get("uncertainty"), model_outputs.get("in_domain")
        truncated, windows, error = (
            value[0] if isinstance(value, list) else value
            for value in (model_outputs[name] for name in ("truncated", "windows", "error"))
        )
        return describe(
            model_outputs["logits"][0].double().tolist(),
            None if uncertainty is None else uncertainty[0].double().tolist(),
            self.model.config,
            in_domain=None if in_domain is None else float(in_domain[0]),
            windows=windows,
            truncated=truncated,
            error=error,
        )

    def postprocess(self, model_outputs: Any) -> Any:
        """One row from one row."""
        return self._row(model_outputs)


class TargetClassificationPipeline(PADRegressionPipeline):
    """`pipeline("text-classification")` of our models: the verdict on a text, or emotion words, with probabilities.

    The labels of a text are "negative", "neutral" and "positive" (of pleasure; of arousal "calm", "neutral", "aroused",
    of dominance "weak", "neutral", "strong", of any other target "low", "neutral", "high") or emotion words, and their
    scores sum to one. What comes back has the shapes of transformers' own class: the likeliest label of each text, or
    with `top_k` a list of labels, the likeliest first. The numbers themselves are in `pipeline("pad-regression")`.

    An entry also has `truncated: True`, `in_domain` where the text is unlike the
    training texts (below 0.5), or `error` (then its label and score are None).

    With the package installed it answers for our models alone, and transformers' class for all others. Without it, it
    comes with a checkpoint's code: `pipeline("text-classification", model=REPOSITORY, trust_remote_code=True)`. A model
    *object* in such a process is read by transformers' class, which knows no verdicts: ask that one for `top_k=None`,
    which gives every target's number.

    A model that has no uncertainty is taken to know no more than the spread of its labels.

    Args of a call:
        inputs: a text or several, as in `PADRegressionPipeline`; chat messages are not taken.
        labels: "emotions", or the name of a target; default pleasure (or valence), else the first target.
        top_k: so many labels, the likeliest first; None for all.
        function_to_apply: "softmax" gives probabilities, the default; "none" their logarithms, "sigmoid" the sigmoid of
            these.
        max_length, truncation, num_outer_steps, batch_size, num_workers: as in `PADRegressionPipeline`.
        padding: taken, as transformers' class does; texts are padded anyway.

    Raises:
        LiminalError: see `PADRegressionPipeline`; labels of which the model has none.

    Example:
        >>> from transformers import pipeline
        >>> import liminal_hf
        >>> classify = pipeline("text-classification", model=liminal_hf.DEFAULT_CHECKPOINT)
        >>> [row["label"] for row in classify(["What a lovely surprise!", "The train leaves at nine."])]
        ['positive', 'neutral']
        >>> [row["label"] for row in classify("I hate this!", labels="emotions", top_k=2)]
        ['anger', 'disgust']
    """

    _NAME, _MORE = "text-classification", ", and labels, top_k and function_to_apply"
    _FUNCTIONS: Mapping[str, Any] = dict(
        softmax=math.exp, default=math.exp, none=float, sigmoid=lambda score: 1 / (1 + math.exp(-score))
    )

    def __new__(cls, *args: Any, model: Any = None, **kwargs: Any) -> Any:
        """An object of this class for our models, and one of transformers' class for any other."""
        if getattr(getattr(model, "config", None), "model_type", "liminal") != "liminal":
            return TextClassificationPipeline(*args, model=model, **kwargs)
        if (reads := sense(getattr(model, "config", None))) != "text":
            raise LiminalError(f'This model reads {reads}, not text: pipeline("pad-regression", model=...)')
        return super().__new__(cls)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        top_k: int | str | None = "",  # transformers' own sign for "not given"
        function_to_apply: Any = None,
        labels: str | None = None,
        padding: Any = True,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if top_k != "":
            if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
                raise LiminalError(f"top_k must be a whole number, at least 1, or None for all labels, got {top_k!r}.")
            postprocess |= {"top_k": top_k, "as_list": True}
        if function_to_apply is not None:
            name = str(getattr(function_to_apply, "value", function_to_apply)).lower()
            if name not in self._FUNCTIONS:
                raise LiminalError(
                    f"function_to_apply must be one of {', '.join(self._FUNCTIONS)}, got {function_to_apply!r}."
                )
            postprocess["function_to_apply"] = name
        if labels is not None:
            if labels not in (known := self._label_sets()):
                raise LiminalError(f"labels must be one of {', '.join(known)}, got {labels!r}.")
            postprocess["labels"] = labels
        return preprocess, forward, postprocess

    def _label_sets(self) -> list[str]:
        """What this model has labels of, the default first."""
        config = self.model.config
        known = [name for name, is_trained in zip(config.targets, config.trained_targets, strict=True) if is_trained]
        known.sort(key=lambda name: name.casefold() not in ("pleasure", "valence"))
        indices = config.pad_indices
        has_emotions = indices is not None and all(config.trained_targets[index] for index in indices)
        return [*known, *([EMOTIONS] if has_emotions else [])]

    def _chat(self, *args: Any, **kwargs: Any) -> Any:
        raise LiminalError('text-classification reads texts. For chat messages: pipeline("pad-regression", ...)')

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """See the class."""
        entries = super().__call__(inputs, **kwargs)
        # transformers' class answers a bare text with a list of one label.
        return [entries] if isinstance(inputs, str) and "top_k" not in kwargs else entries

    def postprocess(
        self,
        model_outputs: Any,
        top_k: int | None = 1,
        as_list: bool = False,
        function_to_apply: str = "softmax",
        labels: str | None = None,
    ) -> Any:
        """The entries of one text."""
        row, config = self._row(model_outputs), self.model.config
        about = {name: row[name] for name in ("truncated", "error") if row[name]}
        if outside(row["in_domain"]):
            about["in_domain"] = row["in_domain"]
        known = [labels] if labels else self._label_sets()
        entries: list[dict[str, Any]] = [{"label": None, "score": None, **about}]
        if row["error"] is None and known:
            uncertainty = model_outputs.get("uncertainty")
            deviation = config.label_std if uncertainty is None else uncertainty[0].double().tolist()
            shares = label_shares(model_outputs["logits"][0].double().tolist(), deviation, config, known[0])
            best = sorted(shares, key=lambda label: -shares[label])[:top_k]
            function = self._FUNCTIONS[function_to_apply]
            scores = [function(math.log(max(shares[label], sys.float_info.min))) for label in best]
            entries = [{"label": label, "score": score, **about} for label, score in zip(best, scores, strict=True)]
        return entries if as_list else entries[0]
