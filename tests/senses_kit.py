"""What the tests of sounds and images share: tiny encoders of seven families, their processors, signals of known label.

A clip is a sine whose loudness, pitch and both together are its pleasure, arousal and dominance; an image has one
colour, whose brightness, redness and blueness are. So the answers are known, and say nothing about affect.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    HubertConfig,
    PreTrainedConfig,
    SiglipVisionConfig,
    ViTConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from liminal_hf import LiminalConfig, LiminalForPADRegression
from liminal_hf.modeling.senses import build_encoder, sense

RATE = 16_000
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
CONVOLUTIONS = {
    **{"conv_dim": (32, 32, 32), "conv_kernel": (10, 8, 4), "conv_stride": (5, 4, 4), "num_feat_extract_layers": 3},
    **{"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.0, "layerdrop": 0.0},
}
LAYER_NORM: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
WHISPER = {
    **{"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 37, "vocab_size": 60},
    **{"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 37, "max_source_positions": 50},
    **{"num_mel_bins": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
}
SOUNDS = ("wav2vec2", "hubert", "wavlm", "whisper")
IMAGES = ("vit", "clip_vision_model", "siglip_vision_model")
SENSES = (*SOUNDS, *IMAGES)
BY_DEFAULT = ("wav2vec2", "vit")


def sense_config(family: str, **changes: Any) -> PreTrainedConfig:
    """A tiny config; `feat_extract_norm="group"` makes wav2vec2 and kin as the base models are."""
    image = {**SIZE, "image_size": 32, "patch_size": 8}
    configs: dict[str, tuple[type, dict[str, Any]]] = {
        "wav2vec2": (Wav2Vec2Config, {**SIZE, **CONVOLUTIONS, **LAYER_NORM}),
        "hubert": (HubertConfig, {**SIZE, **CONVOLUTIONS, **LAYER_NORM}),
        "wavlm": (WavLMConfig, {**SIZE, **CONVOLUTIONS, **LAYER_NORM}),
        "whisper": (WhisperConfig, WHISPER),
        "vit": (ViTConfig, image),
        "clip_vision_model": (CLIPVisionConfig, image),
        "siglip_vision_model": (SiglipVisionConfig, {**image, "vision_use_head": False}),
    }
    kind, fields = configs[family]
    config: PreTrainedConfig = kind(**{**fields, **changes})
    return config


def processor(family: str, **changes: Any) -> Any:
    """The processor that goes with a tiny encoder; Whisper's pads to one second."""
    if family == "whisper":
        return WhisperFeatureExtractor(feature_size=20, chunk_length=1, **changes)
    if family in SOUNDS:
        return Wav2Vec2FeatureExtractor(**{"return_attention_mask": True, "do_normalize": False, **changes})
    return ViTImageProcessorPil(size={"height": 32, "width": 32}, **changes)


def sense_model(family: str, changes: dict[str, Any] | None = None, **fields: Any) -> LiminalForPADRegression:
    """A model with random weights on a tiny encoder, in evaluation mode."""
    torch.manual_seed(0)
    config = LiminalConfig(text_config=sense_config(family, **(changes or {})), **{"latent_size": 16, **fields})
    model = LiminalForPADRegression(config).eval()
    with torch.no_grad():  # zero-initialised layers would hide what the rest computes
        for parameter in model.liminal.head.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def saved_encoder(folder: Path, family: str, **changes: Any) -> Path:
    """A folder with a tiny encoder and its processor, as `from_encoder_pretrained` finds one on the Hub."""
    torch.manual_seed(0)
    build_encoder(sense_config(family, **changes)).save_pretrained(folder)
    processor(family).save_pretrained(folder)
    return folder


def clip(loudness: float, pitch: float, seconds: float = 0.3, seed: int = 0) -> np.ndarray:
    """A sine over a faint noise; loudness and pitch in 0..1, the pitch over three octaves from 200 Hz.

    Encoders with layer norms do not see how loud all of a clip is, but how far it stands out of the noise.
    """
    chance = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    wave = np.sin(2 * np.pi * 200 * 8**pitch * time + chance.uniform(0, 2 * np.pi))
    return (0.5 * loudness * wave + 0.1 * chance.standard_normal(len(time))).astype(np.float32)


def picture(red: float, blue: float, green: float = 0.5) -> Image.Image:
    """An image of one colour."""
    return Image.new("RGB", (40, 24), tuple(int(255 * value) for value in (red, green, blue)))


def signals_and_labels(family: str, count: int, seed: int) -> tuple[list[Any], np.ndarray]:
    """Sounds or images, and their labels `(count, 3)` in -1..1."""
    chance = np.random.default_rng(seed)
    first, second = chance.uniform(0, 1, (2, count))
    labels = np.stack([2 * first - 1, 2 * second - 1, first + second - 1], axis=1)
    if sense(sense_config(family)) == "audio":
        seconds = chance.uniform(0.1, 0.25, count)
        rows = zip(first, second, seconds, strict=True)
        return [clip(*row, seed=seed * 10_000 + index) for index, row in enumerate(rows)], labels
    return [picture(one, two) for one, two in zip(first, second, strict=True)], labels


def signal_tables(folder: Path, family: str, counts: tuple[int, int, int] = (96, 32, 48)) -> dict[str, str]:
    """Files of sounds or images, and a table for each split with their relative paths and labels on a scale of 1..5."""
    import soundfile

    files: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(zip(("train", "validation", "test"), counts, strict=True)):
        signals, labels = signals_and_labels(family, count, seed)
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "V", "A", "D"])
            for index, (signal, row) in enumerate(zip(signals, labels, strict=True)):
                name = f"{split}-{index}.{'wav' if family in SOUNDS else 'png'}"
                if family in SOUNDS:
                    soundfile.write(folder / name, signal, RATE)
                else:
                    signal.save(folder / name)
                writer.writerow([name, *(f"{3 + 2 * value:.5f}" for value in row)])
        files[split] = str(folder / f"{split}.csv")
    return files


def signal_recipe(folder: Path, family: str, **training: Any) -> dict[str, Any]:
    """A recipe for a tiny encoder: of images the head on cached states, of sounds everything."""
    heard = family in SOUNDS
    return {
        "name": f"tiny-{family}",
        "model": {
            "encoder": str(saved_encoder(folder / "encoder", family)),
            "pooled_layers": "last" if heard else "all",
            **{"latent_size": 32, "head_dropout": 0.0, "linear_skip": True},
        },
        "data": {
            "files": signal_tables(folder / "data", family),
            "audio" if heard else "image": "path",
            **{"scale": [1, 5], "max_length": 10},
        },
        "phases": [
            {
                "name": "all" if heard else "head",
                "trainable": "all" if heard else "head",
                "cache": not heard,
                "training": {
                    "num_train_epochs": 25 if heard else 20,
                    "learning_rate": 2.0e-3 if heard else 5.0e-3,
                    **{"per_device_train_batch_size": 16, "disable_tqdm": True, "use_cpu": True},
                    **{"eval_strategy": "no", "logging_strategy": "no", **training},
                },
            }
        ],
    }
