"""Sounds and images through the model: the right frames, one answer padded or alone, saved and reloaded, named errors.

wav2vec2 and ViT by default, five more families with `--all-families`.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import OPTIONS, tiny_model
from senses_kit import (
    BY_DEFAULT,
    IMAGES,
    RATE,
    SENSES,
    SOUNDS,
    clip,
    processor,
    saved_encoder,
    sense_config,
    sense_model,
    signal_recipe,
    signal_tables,
    signals_and_labels,
)
from transformers import (
    ASTConfig,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    SwinConfig,
    WhisperModel,
    pipeline,
)

from liminal_hf import LiminalConfig, LiminalForPADRegression
from liminal_hf.inference import read
from liminal_hf.modeling.encoders import max_tokens, mixes_padding
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.processors import Signals
from liminal_hf.modeling.senses import build_encoder, main_input, sample_inputs, sense
from liminal_hf.training.fit import fit
from liminal_hf.training.inputs import load_splits
from liminal_hf.training.recipe import Recipe, RecipeError
from liminal_hf.training.trainer import LiminalTrainer

FAMILIES = SENSES if OPTIONS["all_families"] else BY_DEFAULT
HEARD = [family for family in FAMILIES if family in SOUNDS]
WAV2VEC2_LIKE = [family for family in HEARD if family != "whisper"]


def inputs_of(family: str, signals: list[Any]) -> Any:
    return Signals(processor(family), signals, 30).batch(None, list(range(len(signals))))


@torch.no_grad()
@pytest.mark.parametrize("layers", ["last", "mix", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_answers_and_comes_back_bit_by_bit(family: str, layers: str, tmp_path: Path) -> None:
    model = sense_model(family, pooled_layers=layers)
    inputs = sample_inputs(model.config.text_config, rows=3)
    output = model(**inputs, output_hidden_states=True)
    assert output.logits.shape == (3, 3) and output.logits.isfinite().all()
    assert len(output.hidden_states) == 3 and output.hidden_states[0].shape[::2] == (3, 32)
    assert model.main_input_name == next(iter(inputs)) == main_input(model.config)
    pooled = model.liminal.pool(**inputs)
    assert torch.equal(model(pooled_embeds=pooled).logits, output.logits)
    model.save_pretrained(tmp_path)
    again = LiminalForPADRegression.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs).logits, output.logits)
    assert type(again.liminal.encoder) is type(model.liminal.encoder)
    assert max_tokens(model.config) is None and again.liminal.max_tokens is None


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_no_answer_depends_on_the_padding_or_the_neighbours(family: str) -> None:
    model, signals = sense_model(family), signals_and_labels(family, 5, 0)[0]
    alone = torch.cat([model(**inputs_of(family, [signal])).logits for signal in signals])
    together = model(**inputs_of(family, signals)).logits
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)
    assert (alone.std(0) > 1e-4).all(), "different signals have different answers"


@torch.no_grad()
@pytest.mark.parametrize("family", WAV2VEC2_LIKE)
def test_the_mask_of_samples_becomes_that_of_frames(family: str) -> None:
    model = sense_model(family, pooling="max")
    batch = inputs_of(family, [clip(0.5, 0.5, 0.3), clip(0.5, 0.5, 0.1)])
    encoded = model.liminal.encoder(**batch)
    own = model.liminal.encoder._get_feature_vector_attention_mask(
        encoded.last_hidden_state.shape[1], batch["attention_mask"]
    )
    seen = model.liminal._encode({"input_values": batch["input_values"]}, batch["attention_mask"])[1]
    assert torch.equal(seen.bool(), own) and 0 < int(seen[1].sum()) < int(seen[0].sum())
    # What stands in the padding is not read.
    noisy = batch["input_values"] + 10 * (1 - batch["attention_mask"])
    changed = model(input_values=noisy, attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(changed, model(**batch).logits, atol=2e-5, rtol=0)
    without = model(input_values=batch["input_values"]).logits
    assert (without[1] - changed[1]).abs().max() > 1e-4, "the test's padding would be seen"


@torch.no_grad()
def test_a_group_norm_hears_the_padding_so_clips_are_read_one_by_one() -> None:
    model = sense_model("wav2vec2", {"feat_extract_norm": "group", "do_stable_layer_norm": False})
    assert mixes_padding(model.config)
    clips = [clip(0.9, 0.2, 0.3), clip(0.4, 0.7, 0.1)]
    batch = inputs_of("wav2vec2", clips)
    alone = torch.cat([model(**inputs_of("wav2vec2", [one])).logits for one in clips]).numpy()
    assert np.abs(model(**batch).logits.numpy() - alone).max() > 1e-4
    values = read(model, processor("wav2vec2", return_attention_mask=False), clips, batch_size=2)
    np.testing.assert_allclose(values["logits"], alone, atol=1e-6)


@torch.no_grad()
def test_whisper_does_not_pool_the_silence_behind_a_clip() -> None:
    model = sense_model("whisper")
    batch = inputs_of("whisper", [clip(0.5, 0.5, 0.4)])
    states = model.liminal.encoder(batch["input_features"]).last_hidden_state
    mask = model.liminal._encode({"input_features": batch["input_features"]}, batch["attention_mask"])[1]
    assert states.shape[1] == 50 and int(mask.sum()) == 20, "two spectra of 10 ms make a frame"
    torch.testing.assert_close(model.liminal.pool(**batch), states[:, :20].mean(1))
    assert not hasattr(model.liminal.encoder, "decoder") and type(model.liminal.encoder).__name__ == "WhisperEncoder"


@torch.no_grad()
def test_the_vision_part_of_clip_siglip_and_the_encoder_of_whisper_are_loaded(tmp_path: Path) -> None:
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8}
    text |= {"vocab_size": 60, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    vision = {name: sense_config(name).to_dict() for name in IMAGES}
    wholes = {
        "clip": CLIPModel(CLIPConfig(text_config=text, vision_config=vision["clip_vision_model"])),
        "siglip": SiglipModel(
            SiglipConfig(text_config=text, vision_config={**vision["siglip_vision_model"], "vision_use_head": True})
        ),
        "whisper": WhisperModel(sense_config("whisper")),
    }
    for name, whole in wholes.items():
        whole.eval().save_pretrained(tmp_path / name)
        model = LiminalForPADRegression.from_encoder_pretrained(str(tmp_path / name), latent_size=16).eval()
        inputs = sample_inputs(model.config.text_config)
        part = whole.encoder if name == "whisper" else whole.vision_model
        expected = part(**inputs).last_hidden_state
        assert torch.equal(model.liminal.encoder(**inputs).last_hidden_state, expected)
        model.save_pretrained(tmp_path / f"{name}-pad")
        again = LiminalForPADRegression.from_pretrained(tmp_path / f"{name}-pad").eval()
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
        model.save_head_only(tmp_path / f"{name}-head")
        again = LiminalForPADRegression.from_pretrained(tmp_path / f"{name}-head").eval()
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_the_wrong_sense_is_an_error_that_says_what_to_give() -> None:
    ids = torch.ones(1, 4, dtype=torch.long)
    sound, image, text = sense_model("wav2vec2"), sense_model("vit"), tiny_model("bert")
    for model, inputs, message in (
        (sound, {"input_ids": ids}, r"reads sounds: give input_values, not input_ids.*feature_extractor\("),
        (sound, {"pixel_values": torch.ones(1, 3, 8, 8)}, "reads sounds: give input_values, not pixel_values"),
        (sound, {"inputs_embeds": torch.ones(1, 4, 32)}, "reads sounds: give input_values, not inputs_embeds"),
        (image, {"input_ids": ids}, r"reads images: give pixel_values, not input_ids.*image_processor\("),
        (text, {"input_values": torch.ones(1, 400)}, r"reads texts: give input_ids, not input_values.*tokenizer\("),
        (text, {"input_ids": ids, "pixel_values": torch.ones(1)}, "reads texts: give input_ids, not pixel_values"),
        (sound, {}, "exactly one of input_values and pooled_embeds"),
        (
            sound,
            {"input_values": torch.ones(1, 400), "pooled_embeds": torch.ones(1, 32)},
            "exactly one of input_values",
        ),
    ):
        with pytest.raises(LiminalError, match=message):
            model(**inputs)


def test_what_can_not_be_heard_is_named() -> None:
    model = sense_model("wav2vec2")
    good = torch.randn(2, 800)
    for inputs, message in (
        ({"input_values": good[0]}, "must be a tensor of a batch"),
        ({"input_values": good, "attention_mask": torch.ones(2, 50)}, r"attention_mask must have the shape.*\(2, 50\)"),
        ({"input_values": good.fill_diagonal_(float("nan"))}, "NaN or infinite"),
        ({"input_values": torch.randn(1, 30)}, "Row 0 is too short: 30 samples make no frame"),
    ):
        with pytest.raises(LiminalError, match=message):
            model(**inputs)
    left = torch.ones(2, 800, dtype=torch.long)
    left[0, :100] = 0
    with pytest.raises(LiminalError, match="padded on the right"):
        model(input_values=torch.randn(2, 800), attention_mask=left)
    with pytest.raises(LiminalError, match="An image has no padding"):
        sense_model("vit")(pixel_values=torch.randn(1, 3, 32, 32), attention_mask=torch.ones(1, 3))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_reads_layer_by_layer_or_every_frame(family: str) -> None:
    inputs = sample_inputs(sense_config(family), rows=2)
    depth = sense_model(family, head="v8", exit_threshold=10.0)
    assert depth(**inputs).depth.tolist() == [1, 1] and depth(**inputs, num_outer_steps=1).logits.isfinite().all()
    tokens = sense_model(family, token_attention=True)
    torch.testing.assert_close(
        tokens(**inputs).logits[:1],
        tokens(**{name: value[:1] for name, value in inputs.items()}).logits,
        atol=1e-5,
        rtol=0,
    )


@torch.no_grad()
def test_an_encoder_in_half_precision_takes_the_signal_as_it_comes() -> None:
    model = sense_model("vit")
    model.liminal.encoder.to(torch.bfloat16)
    assert model(**sample_inputs(model.config.text_config)).logits.dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_train_and_come_back(family: str, tmp_path: Path) -> None:
    from peft import PeftModel, get_peft_model

    from liminal_hf import lora_config

    sense_model(family).save_pretrained(tmp_path / "base")
    model = LiminalForPADRegression.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(model, lora_config(model, r=2, dropout=0.0))
    inputs = sample_inputs(model.config.text_config, rows=4)
    optimizer = torch.optim.SGD([value for value in adapted.parameters() if value.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(**inputs, labels=torch.rand(4, 3)).loss.backward()
        optimizer.step()
    assert any(bool(value.grad.any()) for name, value in adapted.named_parameters() if "lora_B" in name)
    adapted.save_pretrained(tmp_path / "adapter")
    base = LiminalForPADRegression.from_pretrained(tmp_path / "base")
    again = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, adapted.eval()(**inputs).logits)


_STRANGER = """
import sys, torch
sys.modules["liminal_hf"] = None
from transformers import AutoModelForSequenceClassification, pipeline
folder, name = sys.argv[1:]
inputs = torch.load(f"{folder}/inputs.pt")
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    print("LOGITS", *model(**{name: inputs}).logits.flatten().tolist())
pad = pipeline("pad-regression", model=folder, trust_remote_code=True)
print("ROW", type(pad).__name__, pad([None])[0]["error"])
"""


@torch.no_grad()
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "wav2vec2" else pytest.mark.nightly) for name in FAMILIES]
)
def test_a_process_without_the_package_answers_the_same(family: str, tmp_path: Path) -> None:
    model = sense_model(family)
    model.save_pretrained(tmp_path)
    processor(family).save_pretrained(tmp_path)
    ((name, value),) = sample_inputs(model.config.text_config, rows=2).items()
    torch.save(value, tmp_path / "inputs.pt")
    done = subprocess.run(
        [sys.executable, "-c", _STRANGER, str(tmp_path), name], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith(("LOGITS", "ROW"))}
    found = [float(number) for number in lines["LOGITS"].split()[1:]]
    np.testing.assert_allclose(found, model(**{name: value}).logits.flatten().numpy(), atol=1e-6)
    assert lines["ROW"] == "ROW SignalRegressionPipeline nothing (missing value)"


@torch.no_grad()
def test_other_families_are_tried_when_a_model_is_built() -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    spectrum = LiminalForPADRegression(
        LiminalConfig(text_config=ASTConfig(**size, max_length=40, num_mel_bins=32), latent_size=8)
    ).eval()
    assert sense(spectrum.config) == "audio"
    assert spectrum(**sample_inputs(spectrum.config.text_config)).logits.isfinite().all()
    swin = SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
    assert LiminalForPADRegression(LiminalConfig(text_config=swin, latent_size=8)).liminal.pooled_size == 32
    with pytest.raises(LiminalError, match="'swin' does not give the states of every layer"):
        LiminalForPADRegression(LiminalConfig(text_config=swin, latent_size=8, pooled_layers="all"))


def test_the_trainer_reads_a_column_of_sounds_or_of_samples(tmp_path: Path) -> None:
    import soundfile
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification

    from liminal_hf import LiminalTrainingArguments

    clips, labels = signals_and_labels("wav2vec2", 8, 0)
    for index, one in enumerate(clips):
        soundfile.write(tmp_path / f"{index}.wav", one, RATE)
    paths = {"audio": [str(tmp_path / f"{index}.wav") for index in range(8)], "labels": labels.tolist()}
    samples = {"input_values": [one.tolist() for one in clips], "labels": labels.tolist()}
    losses = []
    for name, rows in (("paths", paths), ("samples", samples)):
        model = sense_model("wav2vec2")
        options = {"report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "max_steps": 2}
        trainer = LiminalTrainer(
            model, LiminalTrainingArguments(str(tmp_path / name), per_device_train_batch_size=4, **options),
            train_dataset=Dataset.from_dict(rows), processing_class=processor("wav2vec2"),
        )  # fmt: skip
        losses.append(trainer.train().training_loss)
        trainer.save_model(str(tmp_path / f"{name}-model"))
        assert (tmp_path / f"{name}-model" / "preprocessor_config.json").is_file()
    assert losses[0] == pytest.approx(losses[1], abs=1e-3), "16-bit files hold the same samples"
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "paths-model")
    assert loaded.config.labels_measured


def test_a_processor_is_found_beside_the_encoder_and_the_model(tmp_path: Path) -> None:
    from liminal_hf.modeling.encoders import load_tokenizer

    for family in BY_DEFAULT:
        folder = saved_encoder(tmp_path / family, family)
        model = LiminalForPADRegression.from_encoder_pretrained(folder, latent_size=16)
        kind = type(processor(family))
        assert type(load_tokenizer(folder)) is kind and type(load_tokenizer(model)) is kind
        model.save_pretrained(tmp_path / f"{family}-model")
        loader = "AutoFeatureExtractor" if family in SOUNDS else "AutoImageProcessor"
        with pytest.raises(LiminalError, match=rf"holds a model and no processor.*{loader}\.from_pretrained"):
            load_tokenizer(tmp_path / f"{family}-model")
    model = LiminalForPADRegression(LiminalConfig(text_config=sense_config("vit"), latent_size=8))
    with pytest.raises(LiminalError, match="processor of this model is not at hand"):
        load_tokenizer(model)
    assert build_encoder(sense_config("vit")).pooler is None


@pytest.mark.parametrize("family", [pytest.param("vit"), pytest.param("wav2vec2", marks=pytest.mark.nightly)])
def test_fit_learns_what_can_be_heard_and_seen(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))
    result = fit(signal_recipe(tmp_path, family), tmp_path / "run")
    assert min(result.metrics["test"][f"pearson_{name}"] for name in ("pleasure", "arousal", "dominance")) > 0.9
    pad = pipeline("pad-regression", model=str(tmp_path / "run" / "model"))
    signals, labels = signals_and_labels(family, 12, 9)
    found = [row["pleasure"] for row in pad(signals)]
    assert np.corrcoef(found, labels[:, 0])[0, 1] > 0.9


def test_a_recipe_says_what_its_data_are(tmp_path: Path) -> None:
    content = signal_recipe(tmp_path, "vit")
    wrong = {**content, "data": {**content["data"], "image": None, "audio": "path"}}
    with pytest.raises(RecipeError, match=r"reads image, and the data are audio.*data\.image: COLUMN"):
        fit(wrong, tmp_path / "run")
    with pytest.raises(RecipeError, match="one of audio and image"):
        Recipe.from_dict({**content, "data": {**content["data"], "audio": "path"}})
    (tmp_path / "data" / "train-3.png").unlink()
    with pytest.raises(LiminalError, match=r"1 of 96 files that the train table names are not there.*train-3\.png"):
        load_splits(Recipe.from_dict(content))


@pytest.mark.parametrize(
    ("name", "family"), [("wav2vec2-own-speech", "wav2vec2"), ("clip-own-images", "clip_vision_model")]
)
def test_the_recipes_for_own_files_train_a_step(
    name: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))
    path = Path(__file__).parents[1] / "hub_configs" / f"{name}.yaml"
    header = path.read_text(encoding="utf-8").partition("name:")[0]
    assert "To expect: not known" in header and "Time: not measured" in header
    small = {"model.encoder": str(saved_encoder(tmp_path / "encoder", family))}
    small |= {"data.files": signal_tables(tmp_path / "data", family, (12, 6, 6))}
    small |= {"phases.*.training.max_steps": 1, "phases.*.training.use_cpu": True}
    result = fit(Recipe.from_yaml(path).override(small), tmp_path / "run")
    assert result.metrics["phases"][0]["steps"] == 1 and (tmp_path / "run/model/preprocessor_config.json").is_file()
