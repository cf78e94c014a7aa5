"""EmotionStreamer: each sentence is read once, from the states that the decoder computed, and from no others."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from conftest import tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList, TextStreamer

import liminal_hf
from liminal_hf import EmotionStreamer, LiminalConfig, LiminalForPADRegression
from liminal_hf.modeling.errors import LiminalError

SAID = "I am so glad. Dr. Smith was right! Who knows"
DECODERS = ("gpt2", "llama", "bloom", "qwen3")


class Dictated(LogitsProcessor):
    """Makes a decoder write what the test wants."""

    def __init__(self, prompt: int, ids: list[int]) -> None:
        self.prompt, self.ids = prompt, ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        done = input_ids.shape[1] - self.prompt
        scores = torch.full_like(scores, -1e9)
        scores[:, self.ids[done]] = 0
        return scores


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)


def decoder(family: str, tokenizer: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = tiny_config(family)
    config.vocab_size = len(tokenizer)
    config.pad_token_id, config.eos_token_id, config.bos_token_id = 0, tokenizer.sep_token_id, tokenizer.cls_token_id
    return AutoModelForCausalLM.from_config(config).eval()


def head_on(writer: Any, **fields: Any) -> LiminalForPADRegression:
    torch.manual_seed(1)
    config = LiminalConfig(
        copy.deepcopy(writer.config), **{"head": "v7", "pooled_layers": "all", "latent_size": 8, **fields}
    )
    model = LiminalForPADRegression(config, encoder=writer.base_model).eval()
    for value in model.liminal.head.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return model


def write(writer: Any, tokenizer: Any, streamer: Any, said: str = SAID, ends: bool = True, **kwargs: Any) -> list[int]:
    prompt = tokenizer("tell me", return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = tokenizer(said, add_special_tokens=False)["input_ids"] + [tokenizer.sep_token_id] * ends
    rules = LogitsProcessorList([Dictated(prompt.shape[1], ids)])
    settings = {"max_new_tokens": len(ids), "do_sample": False, "streamer": streamer, **kwargs}
    written = writer.generate(prompt, logits_processor=rules, **settings)
    return written[0].tolist()


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("pooling", ["mean", "mean_after_first", "last_token"])
def test_rows_are_what_the_head_says_of_the_decoders_states(family: str, pooling: str, tokenizer: Any) -> None:
    writer = decoder(family, tokenizer)
    model = head_on(writer, pooling=pooling)
    heard: list[str] = []
    streamer = EmotionStreamer(model, writer, tokenizer, on_sentence=lambda row: heard.append(row["text"]))
    ids = write(writer, tokenizer, streamer)
    assert heard == [row["text"] for row in streamer.rows] == ["i am so glad.", "dr. smith was right!", "who knows"]
    with torch.no_grad():
        states = writer.base_model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    start = 2  # the prompt
    for row, count in zip(streamer.rows, (5, 6, 2), strict=True):
        tokens = slice(start, start + count)
        parts = [layer[0, tokens][-1] if pooling == "last_token" else layer[0, tokens].mean(0) for layer in states]
        with torch.no_grad():
            expected = model(pooled_embeds=torch.cat(parts)[None]).logits[0]
        assert torch.tensor([row[name] for name in model.config.targets]) == pytest.approx(expected, abs=1e-5)
        assert (row["tokens"], row["truncated"], row["error"]) == (count, False, None)
        start += count


def test_writing_is_the_same_with_and_without(tokenizer: Any) -> None:
    writer = decoder("llama", tokenizer)
    model = head_on(writer)
    prompt = tokenizer("tell me", return_tensors="pt")["input_ids"]
    with_it = writer.generate(prompt, streamer=EmotionStreamer(model, writer, tokenizer), max_new_tokens=12)
    assert torch.equal(with_it, writer.generate(prompt, max_new_tokens=12))
    assert not any("EmotionStreamer" in repr(hook) for hook in writer.base_model._forward_hooks.values())


def test_a_text_that_is_cut_off_is_said(tokenizer: Any) -> None:
    writer = decoder("gpt2", tokenizer)
    streamer = EmotionStreamer(head_on(writer), writer, tokenizer)
    write(writer, tokenizer, streamer, ends=False)
    assert [row["truncated"] for row in streamer.rows] == [False, False, True]
    assert [row["tokens"] for row in streamer.rows] == [5, 6, 1]
    write(writer, tokenizer, streamer, "no", ends=False)  # a single token, whose states never come
    assert [(row["text"], row["pleasure"], row["error"]) for row in streamer.rows] == [
        ("no", None, "no state was seen")
    ]


def test_other_ways_to_generate_give_the_same_rows(tokenizer: Any) -> None:
    writer = decoder("llama", tokenizer)
    streamer = EmotionStreamer(head_on(writer), writer, tokenizer)
    write(writer, tokenizer, streamer)
    rows = streamer.rows
    for kwargs in ({"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 1}):
        write(writer, tokenizer, streamer, **kwargs)
        for row, before in zip(streamer.rows, rows, strict=True):
            assert row["text"] == before["text"]
            assert row["pleasure"] == pytest.approx(before["pleasure"], abs=1e-5)


def test_threads_that_share_a_decoder_do_not_mix(tokenizer: Any) -> None:
    writer = decoder("llama", tokenizer)
    model = head_on(writer)
    texts = [SAID, "Nobody came. It rained all day. So what?", "Hooray! We won. Again. And again."] * 2

    def read(text: str) -> list[dict[str, Any]]:
        streamer = EmotionStreamer(model, writer, tokenizer)
        write(writer, tokenizer, streamer, text)
        return streamer.rows

    expected = [read(text) for text in texts]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(read, texts))
    for rows, those in zip(found, expected, strict=True):
        assert [row["text"] for row in rows] == [row["text"] for row in those]
        assert [row["pleasure"] for row in rows] == pytest.approx([row["pleasure"] for row in those], abs=1e-5)


def test_it_goes_on_after_an_interruption(tokenizer: Any) -> None:
    writer = decoder("llama", tokenizer)
    streamer = EmotionStreamer(head_on(writer), writer, tokenizer)
    write(writer, tokenizer, streamer)
    rows = streamer.rows

    def stop(row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    streamer.on_sentence = stop
    with pytest.raises(KeyboardInterrupt):
        write(writer, tokenizer, streamer)
    streamer.on_sentence = None
    write(writer, tokenizer, streamer)
    assert streamer.rows == rows


def test_another_streamer_gets_the_tokens_too(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    writer = decoder("gpt2", tokenizer)
    printer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    write(writer, tokenizer, EmotionStreamer(head_on(writer), writer, tokenizer, streamer=printer))
    assert capsys.readouterr().out.strip() == SAID.lower()


def test_a_head_reads_no_other_decoder(tokenizer: Any) -> None:
    writer = decoder("llama", tokenizer)
    model = head_on(writer)
    with pytest.raises(LiminalError, match="trained on a LlamaModel of width"):
        EmotionStreamer(model, decoder("gpt2", tokenizer), tokenizer)
    other = decoder("llama", tokenizer, seed=5)
    with pytest.raises(LiminalError, match="any_weights=True"):
        EmotionStreamer(model, other, tokenizer)
    streamer = EmotionStreamer(model, other, tokenizer, any_weights=True)
    write(other, tokenizer, streamer)
    assert len(streamer.rows) == 3
    with pytest.raises(LiminalError, match="no encoder"):
        EmotionStreamer(LiminalForPADRegression(LiminalConfig(pooled_size=8)), writer, tokenizer)
    with pytest.raises(LiminalError, match="pooling='attention'"):
        EmotionStreamer(head_on(writer, pooling="attention"), writer, tokenizer)


def test_one_text_at_a_time(tokenizer: Any) -> None:
    writer = decoder("llama", tokenizer)
    streamer = EmotionStreamer(head_on(writer), writer, tokenizer)
    with pytest.raises(LiminalError, match="one text at a time"):
        writer.generate(torch.ones(2, 3, dtype=torch.long), streamer=streamer, max_new_tokens=2)
    write(writer, tokenizer, streamer)
    assert len(streamer.rows) == 3


def test_adapters_of_peft_are_other_weights(tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    writer = decoder("llama", tokenizer)
    model = head_on(decoder("llama", tokenizer))
    plain = EmotionStreamer(model, writer, tokenizer)
    write(writer, tokenizer, plain)
    tuned = peft.get_peft_model(writer, peft.LoraConfig(task_type="CAUSAL_LM", r=2))
    with pytest.raises(LiminalError, match="any_weights=True"):
        EmotionStreamer(model, tuned, tokenizer)
    streamer = EmotionStreamer(model, tuned, tokenizer, any_weights=True)
    write(tuned, tokenizer, streamer)  # a new adapter changes nothing yet
    assert [row["pleasure"] for row in streamer.rows] == pytest.approx(
        [row["pleasure"] for row in plain.rows], abs=1e-6
    )
