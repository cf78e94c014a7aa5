"""What a language model's own text feels like while it writes: PAD after each sentence, from the states it computes.

Requires torch and transformers.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from .modeling.errors import LiminalError
from .modeling.modeling_liminal import LiminalForPADRegression
from .modeling.rows import describe
from .modeling.sentences import sentences

# Poolers that read each token by itself; the first one of a text, and not of a sentence, is what the second leaves out.
_POOLERS = {"mean": 0, "mean_after_first": 1, "max": 0, "last_token": 0}


class EmotionStreamer(BaseStreamer):
    """A `streamer` for `generate`: reads each sentence that a decoder writes, from the states of that decoder.

    The head is one that was trained on the decoder (`liminal train hub_configs/smollm2-emobank.yaml`). No text goes
    through an encoder again: the states that the decoder has computed anyway are pooled over the sentence's tokens, and
    the head reads them. They know what was written before, so that a row may differ from that of the sentence alone.

    A sentence is read when the next one has begun, or the text has ended. Each row is that of the pipeline
    `pad-regression` with `text` and `tokens`, how many of them were read. The states of the very last token come with
    the token behind it: where the writing is cut off by `max_new_tokens`, the last row is read without it and is
    `truncated`.

    Args:
        model: a `LiminalForPADRegression` with the decoder as its encoder, or its folder or Hub id.
        generator: the model that writes (`AutoModelForCausalLM`, also with adapters of PEFT).
        tokenizer: of the generator.
        on_sentence: called with each row as soon as there is one.
        streamer: another streamer that gets the tokens, too, such as transformers' `TextStreamer`.
        any_weights: read a generator with other weights than the head was trained on (fine-tuned since, adapters).
            Nothing says how good the answers then are.

    Attributes:
        rows: of all sentences of the last `generate`, in their order.

    Raises:
        LiminalError: the model has no encoder, another shape or other weights than the generator, or a pooling that
            does not read each token by itself. While it writes: more than one text at a time, or beams.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel, AutoTokenizer
        >>> import liminal_hf
        >>> from liminal_hf import LiminalConfig
        >>> tokenizer = AutoTokenizer.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
        >>> size = {"n_embd": 8, "n_layer": 1, "n_head": 1}
        >>> config = GPT2Config(vocab_size=len(tokenizer), eos_token_id=102, bos_token_id=101, **size)
        >>> writer = GPT2LMHeadModel(config)  # knows nothing: real ones come by from_pretrained
        >>> model = LiminalForPADRegression(LiminalConfig(writer.config, head="linear"), encoder=writer.base_model)
        >>> streamer = EmotionStreamer(model, writer, tokenizer)
        >>> prompt = tokenizer("I am so glad.", return_tensors="pt")["input_ids"]
        >>> _ = writer.generate(prompt, streamer=streamer, max_new_tokens=8, do_sample=False, pad_token_id=0)
        >>> sorted({"text", "tokens", "pleasure"} & set(streamer.rows[0]))
        ['pleasure', 'text', 'tokens']
    """

    def __init__(
        self,
        model: LiminalForPADRegression | str | os.PathLike,
        generator: Any,
        tokenizer: Any,
        on_sentence: Callable[[dict[str, Any]], Any] | None = None,
        streamer: BaseStreamer | None = None,
        *,
        any_weights: bool = False,
    ) -> None:
        if isinstance(model, str | os.PathLike):
            model = LiminalForPADRegression.from_pretrained(model)
        self.model, self.generator, self.tokenizer = model.eval(), generator, tokenizer
        self.on_sentence, self.streamer = on_sentence, streamer
        self.rows: list[dict[str, Any]] = []
        self._hooks: list[Any] = []
        self._special = set(tokenizer.all_special_ids)
        pooling = model.config.pooling or "mean"
        if pooling not in _POOLERS or model.config.token_attention:
            raise LiminalError(
                f"A sentence is read by its tokens' states, pooled by one of {', '.join(_POOLERS)}, without "
                f"token_attention; this model has pooling={pooling!r}, token_attention={model.config.token_attention}."
            )
        self._skips = _POOLERS[pooling]
        self._decoder: PreTrainedModel = generator.get_decoder()
        _check_fits(model, self._decoder, any_weights)
        self._ids: list[int] = []  # of all tokens, the prompt's included
        self._last: list[int] = []  # those that came last
        self._states: dict[int, Tensor] = {}  # by index of the token, (layers, hidden)
        self._start = -1  # of the sentence that is being written; -1 before the prompt
        self._thread = threading.get_ident()  # in which `generate` runs
        self._seen = 0  # tokens that the decoder has read before the step that it is at

    def _begin(self, prompt: list[int]) -> None:
        self.rows, self._states = [], {}
        self._ids, self._last, self._start = prompt, prompt, len(prompt)

    # ---- what `generate` calls ----

    def put(self, value: Tensor) -> None:
        """Takes the prompt, then each new token: `(1, length)` or `(length,)`, long."""
        if value.dim() > 1 and value.shape[0] > 1:
            self.close()
            raise LiminalError(
                f"EmotionStreamer reads one text at a time, got {value.shape[0]}: generate them in turn."
            )
        ids = value.flatten().tolist()
        if self._start < 0:
            self._thread = threading.get_ident()
            self._begin(ids)
            self._hooks = [
                self._decoder.register_forward_pre_hook(self._before, with_kwargs=True),
                self._decoder.register_forward_hook(self._after),
            ]
        else:
            self._last, self._ids = ids, self._ids + ids
            self._read_whole_sentences()
        if self.streamer is not None:
            self.streamer.put(value)

    def end(self) -> None:
        """Reads what is left; the streamer can then be used again."""
        try:
            self._read(len(self._ids))
        finally:
            self.close()
        if self.streamer is not None:
            self.streamer.end()

    def close(self) -> None:
        """Takes the hooks off the generator; needed only where `generate` was interrupted."""
        self._remove_hooks()
        self._ids, self._states, self._start = [], {}, -1

    # ---- states ----

    def _before(self, module: Any, args: Any, kwargs: Any = None) -> Any:
        # Others may write with the same model in threads of their own. Torch leaves out the kwargs where another thread
        # is just putting this hook on or taking it off.
        if kwargs is None or threading.get_ident() != self._thread:
            return None
        past = kwargs.get("past_key_values")
        self._seen = 0 if past is None else int(past.get_seq_length())
        if past is not None and not self._seen and self._states:  # the writing before was interrupted: a new prompt
            self._begin(self._last)
        return args, {**kwargs, "output_hidden_states": True}

    def _after(self, module: Any, args: Any, output: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        last = output.last_hidden_state
        if last.shape[0] > 1:
            self.close()
            raise LiminalError("EmotionStreamer reads one text at a time: generate with num_beams=1, one sequence.")
        layers = (last,) if self.model.config.pooled_layers == "last" else output.hidden_states
        for index in range(max(0, self._start - 1 - self._seen), last.shape[1]):
            self._states[self._seen + index] = torch.stack([layer[0, index] for layer in layers])

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    # ---- sentences ----

    def _text(self, start: int, end: int) -> str:
        return self.tokenizer.decode(self._ids[start:end], skip_special_tokens=True)

    def _read_whole_sentences(self) -> None:
        start = self._start
        for _, stop in sentences(self._text(start, len(self._ids)))[:-1]:
            end = self._start + 1
            while len(self._text(start, end)) < stop:
                end += 1
            self._read(end)

    def _read(self, end: int) -> None:
        """Reads the tokens from the start of the sentence to `end`, if they say anything; the next one starts there."""
        start, self._start = self._start, end
        text = self._text(start, end).strip()
        written = [index for index in range(start, end) if self._ids[index] not in self._special]
        while written and not self.tokenizer.decode([self._ids[written[0]]]).strip():
            del written[0]  # blanks between two sentences
        if text:
            known = [index for index in written if index in self._states]
            row = self._answer(known) if known else describe(None, None, self.model.config, error="no state was seen")
            row |= {"truncated": len(known) < len(written), "text": text, "tokens": len(known)}
            self.rows.append(row)
            if self.on_sentence is not None:
                self.on_sentence(row)
        for index in [index for index in self._states if index < end - 1]:
            del self._states[index]

    @torch.no_grad()
    def _answer(self, tokens: list[int]) -> dict[str, Any]:
        pooler, head = self.model.liminal.pooler, self.model.liminal.head
        # What the pooler leaves out of a whole text is before the sentence here.
        tokens = [tokens[0]] * self._skips + tokens
        like = next(head.parameters())
        states = torch.stack([self._states[index] for index in tokens], dim=1).to(like)  # (layers, length, hidden)
        mask = torch.ones(1, len(tokens), dtype=torch.long, device=like.device)
        layers = tuple(states[:, None])
        pooled, _ = pooler(layers[-1], None if self.model.config.pooled_layers == "last" else layers, mask)
        output = self.model(pooled_embeds=pooled)
        uncertainty, in_domain = output.uncertainty, output.in_domain
        return describe(
            output.logits[0].tolist(),
            None if uncertainty is None else uncertainty[0].tolist(),
            self.model.config,
            in_domain=None if in_domain is None else float(in_domain[0]),
        )


def _check_fits(model: LiminalForPADRegression, decoder: PreTrainedModel, any_weights: bool) -> None:
    """Raises unless the decoder gives the states that the model's head was trained on."""
    encoder = model.liminal.encoder
    if encoder is None:
        raise LiminalError(
            "This model has no encoder: train a head on the decoder (`encoder:` of a recipe is its Hub id)."
        )
    read, written = (
        f"{type(each).__name__} of width {each.config.hidden_size} with {each.config.num_hidden_layers} layers"
        for each in (encoder, decoder)
    )
    if read != written:
        raise LiminalError(
            f"The head was trained on a {read}, and the generator is a {written}: a head reads the decoder that it was "
            "trained on, and no other."
        )
    own = dict(decoder.named_parameters())
    trained = dict(encoder.named_parameters())
    changed = (
        name for name, value in trained.items() if name not in own or not torch.equal(own[name], value.to(own[name]))
    )
    other = next(changed, None)
    if other is not None and not any_weights:
        raise LiminalError(
            f"The generator's weights are not those that the head was trained on (the first one: {other}). Load both "
            "from the same checkpoint, train a head on this one, or read it anyway with any_weights=True."
        )
