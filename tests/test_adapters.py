"""LoRA on every encoder family: what trains and is saved, merging, head-only checkpoints; quantization's skip names."""

import re
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, MINILM, tiny_model
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.quantizers_utils import should_convert_module

from liminal_hf import LiminalForPADRegression, lora_config
from liminal_hf.adapters import low_rank_deltas, quantization_skip_modules
from liminal_hf.modeling.errors import LiminalError

# RINSE learns from the step that comes after it.
LEARNED = {"num_outer_steps": 2, "pooled_layers": "mix"}


def batch(seed: int = 0, rows: int = 4, length: int = 9) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def train(model: torch.nn.Module, steps: int = 3) -> None:
    """A few steps; B starts at zero, so an untrained adapter would prove nothing."""
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(**batch(step), labels=torch.rand(4, 3) * 2 - 1).loss.backward()
        optimizer.step()
    model.eval()


@pytest.fixture(params=FAMILIES, scope="module")
def base_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model of each family, with a learned pooler."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_model(request.param, **LEARNED).save_pretrained(folder)
    return folder


def adapted(folder: Path) -> PeftModel:
    torch.manual_seed(0)
    model = LiminalForPADRegression.from_pretrained(folder)
    return get_peft_model(model, lora_config(model, r=4, alpha=8))


def test_adapter_and_head_learn_and_the_rest_stays(base_folder: Path) -> None:
    model = adapted(base_folder)
    before = {name: value.clone() for name, value in model.named_parameters()}
    train(model)
    groups = {"lora": 0, "head": 0, "pooler": 0}
    for name, value in model.named_parameters():
        changed = not torch.equal(value, before[name])
        if "lora_" in name:
            # Only the encoder is adapted: a change of our own linears would be trained twice.
            assert ".liminal.encoder." in name
            assert value.grad is not None and changed, name
            groups["lora"] += 1
        elif ".modules_to_save." in name:
            group = next(group for group in ("head", "pooler") if f".liminal.{group}." in name)
            assert value.requires_grad and value.grad is not None, name
            groups[group] += changed
        else:
            assert not value.requires_grad and value.grad is None and not changed, name
    layers = [name for name, _ in LiminalForPADRegression.from_pretrained(base_folder).named_modules()]
    config = model.peft_config["default"]
    assert groups["lora"] == 2 * len([name for name in layers if name in model.base_model.targeted_module_names])
    assert groups["lora"] >= 2 * 2 * 2  # at least two weights in each of two layers, each with A and B
    assert groups["head"] > 20 and groups["pooler"] == 1
    assert config.fan_in_fan_out == (model.config.text_config.model_type == "gpt2")


def test_adapter_alone_reloads_with_equal_logits(base_folder: Path, tmp_path: Path) -> None:
    model = adapted(base_folder)
    train(model)
    expected = model(**batch()).logits
    model.save_pretrained(tmp_path / "adapter")
    size = sum(file.stat().st_size for file in (tmp_path / "adapter").iterdir())
    assert size < (base_folder / "model.safetensors").stat().st_size
    again = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(again(**batch()).logits, expected)
    base = LiminalForPADRegression.from_pretrained(base_folder).eval()
    assert not torch.allclose(base(**batch()).logits, expected, atol=1e-3)
    assert torch.equal(PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(**batch()).logits, expected)


def test_merging_gives_a_plain_model(base_folder: Path, tmp_path: Path) -> None:
    keys = set(LiminalForPADRegression.from_pretrained(base_folder).state_dict())
    model = adapted(base_folder)
    train(model)
    expected = model(**batch()).logits
    deltas = low_rank_deltas(model)
    originals = LiminalForPADRegression.from_pretrained(base_folder).liminal.encoder
    merged = model.merge_and_unload()
    assert type(merged) is LiminalForPADRegression and set(merged.state_dict()) == keys
    torch.testing.assert_close(merged(**batch()).logits, expected, atol=1e-5, rtol=0)
    for name, value in merged.liminal.encoder.named_parameters():
        change = deltas[name][1] @ deltas[name][0] if name in deltas else 0
        torch.testing.assert_close(value, originals.get_parameter(name) + change, atol=1e-6, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(loaded(**batch()).logits, merged(**batch()).logits, atol=1e-6, rtol=0)


def test_gradient_checkpointing_gives_the_same_gradients(base_folder: Path) -> None:
    model = adapted(base_folder)
    train(model, steps=1)  # from zero, A has no gradient
    model.train()

    def gradients() -> dict[str, Tensor]:
        torch.manual_seed(0)
        model.zero_grad()
        model(**batch(), labels=torch.zeros(4, 3)).loss.backward()
        return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}

    plain = gradients()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    checkpointed = gradients()
    assert plain.keys() == checkpointed.keys()
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_head_only_checkpoint_carries_the_adapter(family: str, tmp_path: Path, tiny_encoder) -> None:
    model = LiminalForPADRegression.from_encoder_pretrained(tiny_encoder(family), latent_size=16)
    model = get_peft_model(model, lora_config(model, r=4, alpha=8))
    train(model)
    deltas = low_rank_deltas(model)
    merged = model.merge_and_unload()
    expected = merged(**batch()).logits
    merged.save_head_only(tmp_path / "head", low_rank=deltas)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "head")
    torch.testing.assert_close(loaded(**batch()).logits, expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="would lose its training"):
        merged.save_head_only(tmp_path / "without")


def test_head_only_checkpoint_of_adapted_minilm(minilm: Path, tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_encoder_pretrained(MINILM, latent_size=16)
    model = get_peft_model(model, lora_config(model, r=4, target_modules=["query", "value"]))
    texts = ["I won!", "Go away and never come back.", "It is Tuesday.", "Help me, please!"]
    inputs = AutoTokenizer.from_pretrained(minilm)(texts, padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model(**inputs, labels=torch.eye(4)[:, :3]).loss.backward()
        optimizer.step()
    deltas = low_rank_deltas(model.eval())
    assert len(deltas) == 12
    merged = model.merge_and_unload()
    merged.save_head_only(tmp_path, low_rank=deltas)
    assert (tmp_path / "model.safetensors").stat().st_size < 1e6
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**inputs).logits, merged(**inputs).logits, atol=1e-5, rtol=0)


def test_target_modules_of_the_callers_choice() -> None:
    model = tiny_model("bert")
    adapted_names = get_peft_model(model, lora_config(model, target_modules=["query"])).base_model.targeted_module_names
    assert adapted_names == [f"liminal.encoder.encoder.layer.{layer}.attention.self.query" for layer in range(2)]


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_on_the_upper_layers_alone(family: str) -> None:
    from test_families import tiny_of

    model = tiny_of(family)
    every = get_peft_model(tiny_of(family), lora_config(model)).base_model.targeted_module_names
    upper = get_peft_model(model, lora_config(model, layers=[1])).base_model.targeted_module_names
    assert upper == [name for name in every if re.search(r"\d+", name)[0] == "1"]
    assert upper
    with pytest.raises(LiminalError, match=r"no layer \[7\]. Its layers: \[0, 1"):
        lora_config(tiny_of(family), layers=[1, 7])
    for wrong in ([], 5, [True], "1"):
        with pytest.raises(LiminalError, match="layers must be a list"):
            lora_config(tiny_of(family), layers=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("targets", [None, "all-linear", ["all-linear"]])
@pytest.mark.parametrize("family", [*FAMILIES, "electra"])
def test_all_linear_layers_of_the_encoder_are_adapted_and_none_of_the_head(family: str, targets: object) -> None:
    from test_families import tiny_of

    model = tiny_of(family)
    linears = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and name.startswith("liminal.encoder.")
    ]
    wrapped = get_peft_model(model, lora_config(model, target_modules=targets))
    assert sorted(wrapped.base_model.targeted_module_names) == sorted(linears)


def test_more_modules_are_trained_whole_and_saved(base_folder: Path, tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_pretrained(base_folder)
    modules = model.liminal.encoder.named_modules()
    norm = next(name for name, module in modules if "norm" in type(module).__name__.lower())
    wrapped = get_peft_model(model, lora_config(model, r=2, modules_to_save=[f"liminal.encoder.{norm}"]))
    train(wrapped)
    expected = wrapped(**batch()).logits
    wrapped.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**batch()).logits, expected)
    with pytest.raises(LiminalError, match="has no module 'nothing'"):
        lora_config(LiminalForPADRegression.from_pretrained(base_folder), modules_to_save=["nothing"])


def test_an_adapter_of_a_model_that_was_never_saved_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PEFT asks the Hub for the missing checkpoint before our code is reached, so the warning comes first."""
    monkeypatch.chdir(tmp_path)
    model = tiny_model("bert")
    get_peft_model(model, lora_config(model)).save_pretrained("orphan")
    assert "AutoPeftModelForSequenceClassification" in caplog.text
    with pytest.raises(OSError, match="connect to"):
        AutoPeftModelForSequenceClassification.from_pretrained("orphan")

    model = tiny_model("bert")
    for advice in ("model.save_pretrained('base')", "model = LiminalForPADRegression.from_pretrained('base')"):
        assert advice in caplog.text
    model.save_pretrained("base")
    model = LiminalForPADRegression.from_pretrained("base")
    caplog.clear()
    get_peft_model(model, lora_config(model)).save_pretrained("adapter")
    assert "was not loaded from a checkpoint" not in caplog.text
    loaded = AutoPeftModelForSequenceClassification.from_pretrained("adapter")
    assert isinstance(loaded.get_base_model(), LiminalForPADRegression)


def test_what_cannot_be_adapted_is_said() -> None:
    from liminal_hf import LiminalConfig

    model = tiny_model("bert")
    with pytest.raises(ValueError, match=r"\['q_proj'\] are not linear layers of this encoder.*'query'"):
        lora_config(model, target_modules=["q_proj"])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        lora_config(model, r=0)
    with pytest.raises(ValueError, match="no encoder"):
        lora_config(LiminalForPADRegression(LiminalConfig(pooled_size=8)))
    with pytest.raises(ValueError, match="got BertModel"):
        lora_config(model.liminal.encoder)
    config = lora_config(model, r=2)
    config.use_dora = True
    with pytest.raises(ValueError, match="DoRA"):
        low_rank_deltas(get_peft_model(model, config))
    config = LoraConfig(target_modules="liminal.head.latent.0")
    with pytest.raises(ValueError, match="No weight of this encoder is adapted"):
        low_rank_deltas(get_peft_model(tiny_model("bert"), config))


@pytest.mark.parametrize("family", FAMILIES)
def test_quantization_skips_our_modules_and_nothing_else(family: str) -> None:
    model = tiny_model(family, **LEARNED)
    names = quantization_skip_modules(model)
    assert names == quantization_skip_modules(model.config)
    for name in names:
        model.get_submodule(name)  # raises where the tree has no such module
    skipped = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=names).llm_int8_skip_modules
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for name in linears:
        # The rule by which transformers decides which linear layer bitsandbytes replaces.
        assert should_convert_module(name, skipped) == name.startswith("liminal.encoder."), name
    assert any(name.startswith("liminal.head.") for name in linears)


def test_a_model_without_an_encoder_skips_its_head() -> None:
    from liminal_hf import LiminalConfig

    assert quantization_skip_modules(LiminalConfig(pooled_size=8)) == ["liminal.head"]


def test_an_adapter_of_minilm_alone_reloads(minilm: Path, tmp_path: Path) -> None:
    """The real weights: a base checkpoint, and beside it an adapter of less than a megabyte that names it."""
    torch.manual_seed(0)
    LiminalForPADRegression.from_encoder_pretrained(MINILM, head="linear").save_pretrained(tmp_path / "base")
    model = LiminalForPADRegression.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(model, lora_config(model, r=4, target_modules=["query", "value"]))
    inputs = AutoTokenizer.from_pretrained(minilm)(
        ["I won!", "Go away.", "Help me!"], padding=True, return_tensors="pt"
    )
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(**inputs, labels=torch.eye(3)).loss.backward()
        optimizer.step()
    expected = adapted.eval()(**inputs).logits
    adapted.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 1e6
    again = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(again(**inputs).logits, expected)
    plain = LiminalForPADRegression.from_pretrained(tmp_path / "base").eval()
    assert not torch.allclose(plain(**inputs).logits, expected, atol=1e-3)
