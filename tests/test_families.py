"""Encoders of every family: the right answer, padded or alone, up to a limit that is known before; or a named error."""

import copy
import pickle
from typing import Any

import pytest
import torch
from conftest import FAMILIES, tiny_config, tiny_model
from torch import Tensor
from transformers import CONFIG_MAPPING, BartConfig, LlamaConfig, PreTrainedConfig

from liminal_hf import LiminalConfig, LiminalForPADRegression
from liminal_hf.modeling.encoders import build_encoder, max_tokens, mixes_padding
from liminal_hf.modeling.errors import LiminalError

POSITIONS = 64
SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "emb_dim", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_inner", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 32),
    **{"ffn_dim": 32, "num_key_value_heads": 2, "head_dim": 8, "d_kv": 8, "vocab_size": 64},
    **{"max_position_embeddings": POSITIONS, "attention_window": [4, 4], "state_size": 4},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
SPECIAL: dict[str, dict[str, Any]] = {
    "xlnet": {"max_position_embeddings": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "falcon": {"head_dim": None},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "deberta-v2": {"conv_kernel_size": 3, "position_biased_input": False},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "led": {"max_encoder_position_embeddings": POSITIONS, "max_decoder_position_embeddings": POSITIONS},
}
# What the encoder takes; None is no limit.
LIMITS: dict[str, int | None] = {
    **dict.fromkeys(("albert", "electra", "xlm", "convbert", "fnet", "deberta", "big_bird", "squeezebert"), 64),
    **dict.fromkeys(("nystromformer", "yoso", "mobilebert", "rembert", "roformer", "ernie", "flaubert"), 64),
    **dict.fromkeys(("bart", "mbart", "plbart", "led", "opt", "gpt_neo", "gptj", "codegen", "ctrl", "openai-gpt"), 64),
    **dict.fromkeys(("biogpt", "bert-generation", "clip_text_model", "megatron-bert", "splinter", "mra"), 64),
    **dict.fromkeys(("camembert", "data2vec-text", "ibert", "luke", "longformer", "xmod"), 63),
    "mpnet": 62,
    **dict.fromkeys(
        ("xlnet", "deberta-v2", "umt5", "mt5", "gpt_neox", "mamba", "mamba2", "rwkv", "falcon", "xglm"), None
    ),
    **dict.fromkeys(
        ("mpt", "gemma2", "gemma3_text", "phi3", "mistral", "qwen2", "olmo2", "eurobert", "nomic_bert"), None
    ),
    **dict.fromkeys(("lfm2", "recurrent_gemma"), None),
}


def config_of(family: str) -> PreTrainedConfig:
    """A tiny config of any family of transformers."""
    if family in FAMILIES:
        return tiny_config(family)
    default = CONFIG_MAPPING[family]()
    sizes = {name: value for name, value in SIZES.items() if hasattr(default, name)}
    changed = {**sizes, **SPECIAL.get(family, {})}
    return CONFIG_MAPPING[family](**{name: value for name, value in changed.items() if value is not None})


def tiny_of(family: str, **fields: Any) -> LiminalForPADRegression:
    """A model with random weights on a tiny encoder of any family, in evaluation mode."""
    if family in FAMILIES:
        return tiny_model(family, **fields)
    torch.manual_seed(0)
    config = LiminalConfig(text_config=config_of(family), **{"latent_size": 16, **fields})
    return LiminalForPADRegression(config).eval()


def padded(rows: list[Tensor], side: str) -> dict[str, Tensor]:
    length = max(len(row) for row in rows)
    ids, mask = torch.zeros(2, len(rows), length, dtype=torch.long)
    for row, tokens in enumerate(rows):
        part = slice(0, len(tokens)) if side == "right" else slice(length - len(tokens), length)
        ids[row, part], mask[row, part] = tokens, 1
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
@pytest.mark.parametrize("family", sorted({*FAMILIES, *LIMITS}))
def test_a_text_has_one_answer_up_to_the_limit(family: str) -> None:
    model = tiny_of(family)
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 60, (length,), generator=generator) for length in (5, 40, 40)]
    alone = torch.cat([model(**padded([row], "right")).logits for row in rows])
    for side in ("right", "left"):
        difference = float((model(**padded(rows, side)).logits - alone).abs().max())
        assert (difference > 2e-5) == mixes_padding(model.config), f"{family}: {difference}"
    same_length = model(**padded(rows[1:], "right")).logits
    torch.testing.assert_close(same_length, alone[1:], atol=1e-5, rtol=0)
    # The limit is what the encoder can do, and the config alone tells it.
    limit = max_tokens(model.config)
    assert limit == model.liminal.max_tokens
    if family in LIMITS:
        assert limit == LIMITS[family]
    assert model(**padded([torch.full((limit or 3 * POSITIONS,), 5)], "right")).logits.isfinite().all()
    if limit is not None:
        with pytest.raises(ValueError, match=f"takes at most {limit}"):
            model(**padded([torch.full((limit + 1,), 5)], "right"))
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            model.liminal.encoder(**padded([torch.full((limit + 1,), 5)], "right"))


REFUSED = ["t5gemma", "pegasus", "m2m_100", "marian", "longt5", "clip", "lxmert", "resnet", "encodec"]


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_be_read_is_named_before_anything_is_built(family: str, tmp_path: Any) -> None:
    with pytest.raises(LiminalError, match=rf"famil\w* '{family}'.*Allowed: encoders and decoders of text"):
        LiminalForPADRegression(LiminalConfig(text_config=config_of(family), latent_size=16))
    if family in ("resnet", "encodec"):
        config_of(family).save_pretrained(tmp_path)  # no weights: none are asked for
        with pytest.raises(LiminalError, match=family):
            LiminalForPADRegression.from_encoder_pretrained(tmp_path)


def test_an_encoder_without_the_states_of_its_layers_is_named() -> None:
    config = config_of("bart")
    assert type(config) is BartConfig
    with pytest.raises(LiminalError, match=r"'bart' does not give the states of every layer.*pooled_layers='last'"):
        LiminalForPADRegression(LiminalConfig(text_config=config, latent_size=16, pooled_layers="all"))


@torch.no_grad()
@pytest.mark.parametrize("layers", ["last", "mix", "all"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "t5", "gpt2", "qwen3", "electra"])
def test_a_model_can_be_pickled_and_copied(family: str, layers: str) -> None:
    model = tiny_of(family, pooled_layers=layers)
    tokens = padded([torch.arange(3, 9), torch.arange(3, 20)], "right")
    expected = model(**tokens, output_hidden_states=True, output_attentions=family == "bert")
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        output = again(**tokens, output_hidden_states=True)
        assert torch.equal(output.logits, expected.logits)
        assert all(torch.equal(*pair) for pair in zip(output.hidden_states, expected.hidden_states, strict=True))


def test_another_process_gets_the_model() -> None:
    model = tiny_of("bert", pooled_layers="all")
    tokens = padded([torch.arange(3, 9)], "right")
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        logits = pool.apply(answer, (model, tokens))
    assert logits == model(**tokens).logits.tolist()


def answer(model: LiminalForPADRegression, tokens: dict[str, Tensor]) -> list[list[float]]:
    return model(**tokens).logits.tolist()


def test_decoders_are_read_by_the_mean_and_old_checkpoints_by_the_last_token(tmp_path: Any) -> None:
    new = LiminalConfig(text_config=config_of("llama"), latent_size=16)
    assert type(new.text_config) is LlamaConfig and new.pooling is None
    model = LiminalForPADRegression(new)
    assert type(model.liminal.pooler.pool).__name__ == "MeanPooler"
    model.save_pretrained(tmp_path / "new")
    model.save_pretrained(tmp_path / "old")
    file = tmp_path / "old" / "config.json"
    text = file.read_text()
    file.write_text(text.replace('"config_version": 2', '"config_version": 1'))
    assert file.read_text() != text
    for name, pooler in (("new", "MeanPooler"), ("old", "LastTokenPooler")):
        loaded = LiminalForPADRegression.from_pretrained(tmp_path / name)
        assert type(loaded.liminal.pooler.pool).__name__ == pooler
        loaded.save_pretrained(tmp_path / f"{name} again")
        again = LiminalForPADRegression.from_pretrained(tmp_path / f"{name} again")
        assert type(again.liminal.pooler.pool).__name__ == pooler


def test_building_an_encoder_for_its_limit_takes_no_memory() -> None:
    config = CONFIG_MAPPING["electra"](hidden_size=4096, num_hidden_layers=200, vocab_size=1_000_000)
    assert max_tokens(config) == 512
    assert next(build_encoder(config_of("electra")).parameters()).device.type == "cpu"
