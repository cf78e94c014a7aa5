"""What users complain of in packages like this one, each with a test that would catch it in ours.

The number in a test's docstring is the thread in which somebody lost time to it.
"""

import ast
import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MINILM, VOCABULARY, tiny_model
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from training_kit import encoder_with_tokenizer, texts_and_labels
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    TextClassificationPipeline,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging as transformers_logging

import liminal_hf
from liminal_hf import LiminalConfig, LiminalForPADRegression
from liminal_hf.data.pooled_cache import pooled_dataset


def batch(rows: int = 4, length: int = 9) -> dict[str, Tensor]:
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def rows(number: int = 8, missing: bool = False) -> Dataset:
    """Tokens of one length with labels; with `missing`, ever fewer labels from row to row."""
    labels = torch.linspace(-1, 1, 3 * number).view(number, 3)
    if missing:
        for row in range(number):
            labels[row, : row % 3] = -100
    return Dataset.from_dict({**{k: v.tolist() for k, v in batch(number).items()}, "labels": labels.tolist()})


def train(model: LiminalForPADRegression, folder: Path, data: Dataset, **settings: Any) -> Trainer:
    """transformers' own Trainer, plain gradient descent, no decay and no clipping."""
    defaults = {"max_steps": 1, "learning_rate": 0.1, "optim": "sgd", "weight_decay": 0.0, "max_grad_norm": 0.0}
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
    arguments = TrainingArguments(str(folder), lr_scheduler_type="constant", **{**defaults, **quiet, **settings})
    trainer = Trainer(model, arguments, train_dataset=data)
    trainer.train()
    return trainer


def saved_with_warnings(folder: Path, lost: str) -> tuple[LiminalForPADRegression, LiminalForPADRegression, str]:
    """A model, its reload after the weights whose names hold `lost` went missing, and what transformers said."""
    model = tiny_model("bert")
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if lost not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with CaptureLogger(transformers_logging.get_logger("transformers.modeling_utils")) as captured:
        again = AutoModelForSequenceClassification.from_pretrained(folder)
    return model, again, captured.out


def test_a_head_is_reloaded_or_its_absence_is_said(tmp_path: Path) -> None:
    """transformers#46620, peft#876, sentence-transformers#3980: the head came back as random weights, silently."""
    model = tiny_model("bert")
    model.save_pretrained(tmp_path / "whole")
    with CaptureLogger(transformers_logging.get_logger("transformers.modeling_utils")) as captured:
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    assert captured.out == ""
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    _, _, said = saved_with_warnings(tmp_path / "headless", "head.pad_head")
    assert "pad_head" in said and "MISSING" in said


def test_a_missing_head_does_not_cost_the_encoder(tmp_path: Path) -> None:
    """transformers#35437: initialising what was missing also overwrote the pretrained backbone."""
    model, again, said = saved_with_warnings(tmp_path, "liminal.head.")
    assert "head" in said
    for name, value in model.liminal.encoder.state_dict().items():
        assert torch.equal(again.liminal.encoder.state_dict()[name], value), name
    assert not torch.equal(again.liminal.head.projection.weight, model.liminal.head.projection.weight)
    assert all(parameter.isfinite().all() for parameter in again.parameters())


@pytest.mark.parametrize("head", ["v7", "linear"])
def test_accumulation_does_not_inflate_the_loss(head: str, tmp_path: Path) -> None:
    """transformers#47688: the loss, and with it the step, grew with gradient_accumulation_steps."""
    finals, losses = [], []
    for size, accumulation in [(8, 1), (2, 4), (3, 3)]:
        model = tiny_model("bert", head=head, head_dropout=0.0)
        model.config.text_config.hidden_dropout_prob = 0.0
        for module in model.liminal.encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        trainer = train(model, tmp_path, rows(missing=True), **settings)
        finals.append(model.state_dict())
        losses.append(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-3)  # the Trainer rounds it
    for other in finals[1:]:
        for name, value in finals[0].items():
            torch.testing.assert_close(other[name], value, atol=1e-6, rtol=1e-5, msg=name)


STRANGER = """
import socket, sys
sys.modules["liminal_hf"] = None  # importing it would fail, as where it is not installed
def refuse(*args, **kwargs):
    raise AssertionError(f"the network was asked for {args[1:]}")
socket.socket.connect = socket.getaddrinfo = refuse
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, texts = sys.argv[1], ["w1 w2 w3", "w9"]
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    print(model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.double().tolist())
"""


def test_the_heads_code_is_saved_with_the_model(tmp_path: Path) -> None:
    """setfit#530: the head's code stayed behind. Here the Trainer saves, and a process without the package loads."""
    source = encoder_with_tokenizer(tmp_path / "encoder")
    model = LiminalForPADRegression.from_encoder_pretrained(source, latent_size=16, num_outer_steps=2)
    tokenizer = AutoTokenizer.from_pretrained(source)
    folder = tmp_path / "saved"
    arguments = TrainingArguments(str(folder), report_to="none", use_cpu=True)
    Trainer(model, arguments, processing_class=tokenizer).save_model()
    with torch.no_grad():
        wanted = model.eval()(**tokenizer(["w1 w2 w3", "w9"], padding=True, return_tensors="pt")).logits
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.equal(torch.tensor(json.loads(done.stdout)), wanted.double())


def test_no_code_lies_in_a_subfolder(tmp_path: Path) -> None:
    """transformers#29714: code in subfolders, or imported from a parent, is not found by trust_remote_code."""
    tiny_model("bert").save_pretrained(tmp_path / "outer" / "inner")
    files = list((tmp_path / "outer" / "inner").rglob("*.py"))
    assert files and all(file.parent.name == "inner" for file in files)
    names = {file.stem for file in files}
    entries = json.loads((tmp_path / "outer" / "inner" / "config.json").read_text())["auto_map"].values()
    assert {entry.split(".")[0] for entry in entries} <= names
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in names, f"{file.name}: line {node.lineno}"
    # A checkpoint that itself lies in a subfolder of a repository.
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "outer", subfolder="inner")
    assert torch.equal(again.eval()(**batch()).logits, tiny_model("bert")(**batch()).logits)


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError(f"the network was asked for {args[1:]}")
socket.socket.connect = socket.getaddrinfo = refuse
from transformers import AutoModelForSequenceClassification, pipeline
from liminal_hf import LiminalForPADRegression
name, folder = sys.argv[1:]
fresh = LiminalForPADRegression.from_encoder_pretrained(name, head="linear")
assert fresh.config.encoder_revision, fresh.config
AutoModelForSequenceClassification.from_pretrained(folder)
print(pipeline("pad-regression", model=folder)("What a lovely day.")["octant"])
"""


def test_everything_works_offline(minilm: Path, tmp_path: Path) -> None:
    """transformers#34855, setfit#495: a cached or local model still asked the Hub. Here any connection is an error."""
    model = LiminalForPADRegression.from_encoder_pretrained(MINILM, head="linear")
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path / "model")
    # Without HF_HUB_OFFLINE, which the other tests set: what is local does not need it.
    path = str(Path(liminal_hf.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, MINILM, str(tmp_path / "model")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_head_alone_is_really_trained(tmp_path: Path) -> None:
    """setfit#271: with the body frozen, nothing was trained. (With adapters: test_adapters.py.)"""
    model = tiny_model("bert", num_outer_steps=2)  # at K = 1 nothing reads RINSE
    model.freeze_encoder()
    before = copy.deepcopy(model.state_dict())
    train(model, tmp_path, rows(), max_steps=3, optim="adamw_torch", learning_rate=1e-2)
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == name.startswith("liminal.head."), name
    model.save_pretrained(tmp_path / "model")
    again = LiminalForPADRegression.from_pretrained(tmp_path / "model")
    assert torch.equal(again(**batch()).logits, model.eval()(**batch()).logits)


@torch.no_grad()
def test_padding_side_and_batch_size_change_nothing(minilm: Path, tmp_path: Path) -> None:
    """transformers#18478, #29419: a text's result depended on its neighbours and on the tokenizer's padding side."""
    texts = ["Go away!", "What a lovely, lovely day it is, and how blue the sky over all of us.", "Fine.", "No. " * 30]
    torch.manual_seed(0)
    model = LiminalForPADRegression.from_encoder_pretrained(MINILM, pooled_layers="all").eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    alone = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    assert torch.stack(alone).std(0).min() > 1e-3
    for side in ("left", "right"):
        tokenizer.padding_side = side
        for padding in (True, "max_length"):
            inputs = tokenizer(texts, padding=padding, max_length=128, truncation=True, return_tensors="pt")
            torch.testing.assert_close(model(**inputs).logits, torch.stack(alone), atol=1e-5, rtol=0)
        pipe = pipeline("pad-regression", model=model, tokenizer=tokenizer)
        for size in (1, 3, 4):
            arousal = [row["arousal"] for row in pipe(texts, batch_size=size)]
            expected = [value[1].clamp(-1, 1).item() for value in alone]
            assert arousal == pytest.approx(expected, abs=1e-5)


def test_a_nested_config_keeps_its_values(tmp_path: Path) -> None:
    """transformers#40266: values of the inner config fell back to defaults on the way through a file."""
    inner = BertConfig(
        vocab_size=77,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=20,
        hidden_act="relu",
        hidden_dropout_prob=0.37,
        layer_norm_eps=3e-7,
        pad_token_id=6,
    )
    config = LiminalConfig(
        text_config=inner,
        head="v6",
        memory_slots=11,
        label_mean=[0.1, -0.2, 0.3],
        label_std=[0.3, 0.2, 0.1],
        label_range=[1.0, 9.0],
        prediction_quantiles=[[0.0, 0.5, 1.0]] * 3,
        pooled_scale=0.25,
    )
    config.save_pretrained(tmp_path)
    for again in (
        LiminalConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        LiminalConfig(**config.to_dict()),
        LiminalConfig(text_config=inner.to_dict(), **{k: v for k, v in config.to_dict().items() if k != "text_config"}),
        copy.deepcopy(config),
    ):
        assert type(again.text_config) is BertConfig
        for name, value in inner.to_diff_dict().items():
            if name != "transformers_version":
                assert again.text_config.to_dict()[name] == value, name
        for name, value in config.to_dict().items():
            if name not in ("text_config", "transformers_version", "_name_or_path"):
                assert again.to_dict()[name] == value, name
    # One inner value is changed by the caller; the others stay.
    changed = LiminalConfig.from_pretrained(tmp_path, text_config={"hidden_dropout_prob": 0.5})
    assert (changed.text_config.hidden_dropout_prob, changed.text_config.layer_norm_eps) == (0.5, 3e-7)
    model = LiminalForPADRegression(config)
    model.save_pretrained(tmp_path / "model")
    encoder = LiminalForPADRegression.from_pretrained(tmp_path / "model").liminal.encoder
    assert encoder.config.hidden_act == "relu" and encoder.embeddings.dropout.p == 0.37


def test_regression_is_regression(tmp_path: Path) -> None:
    """setfit#119, adapters#675, flair#440: no head for numbers; labels became classes, outputs went through softmax."""
    folder = encoder_with_tokenizer(tmp_path)
    model = LiminalForPADRegression.from_encoder_pretrained(
        folder, head="linear", label_mean=[3.0, 3.0, 3.0], label_std=[0.5, 0.6, 0.7], label_range=[1.0, 5.0]
    ).eval()
    assert model.config.problem_type == "regression"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("w1 w2", return_tensors="pt")
    labels = torch.tensor([[2.5, 3.25, 4.75]])
    output = model(**inputs, labels=labels)
    scale = torch.tensor(model.config.label_std)
    torch.testing.assert_close(output.loss, (((output.logits - labels) / scale) ** 2).mean())
    # The stock pipeline, which squashes the outputs of a classifier, leaves them in the unit of the labels.
    stock = TextClassificationPipeline(model=model, tokenizer=tokenizer)("w1 w2", top_k=None)
    values = {row["label"]: row["score"] for row in stock}
    assert [values[name] for name in liminal_hf.DIMENSIONS] == pytest.approx(output.logits[0].tolist(), abs=1e-5)
    assert min(values.values()) > 1


@pytest.mark.parametrize("head", ["v7", "linear"])
def test_several_targets_at_once(head: str) -> None:
    """autogluon#1683: one model per target, and a row without all targets was lost. Here each has its own gaps."""
    torch.manual_seed(0)
    pooled = torch.randn(300, 8)
    truth = torch.stack([pooled[:, 0], pooled[:, 1] - pooled[:, 2], -pooled[:, 3]], dim=1) * 0.3
    labels = truth.masked_fill(torch.rand(300, 3) < 0.4, -100)
    model = LiminalForPADRegression(LiminalConfig(pooled_size=8, head=head, latent_size=16, head_dropout=0.0)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        model(pooled_embeds=pooled[:200], labels=labels[:200]).loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(pooled_embeds=pooled[200:]).logits
    for dimension in range(3):
        assert torch.corrcoef(torch.stack([found[:, dimension], truth[200:, dimension]]))[0, 1] > 0.95


def test_embeddings_are_cached(tmp_path: Path) -> None:
    """sentence-transformers PR#3656: a frozen encoder ran again in every epoch."""
    folder = encoder_with_tokenizer(tmp_path / "encoder")
    model = LiminalForPADRegression.from_encoder_pretrained(folder, latent_size=16, pooled_layers="all")
    model.freeze_encoder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [text for text, _ in texts_and_labels(12, seed=0)]
    data = Dataset.from_dict({"text": texts, "labels": torch.rand(12, 3).tolist()})
    calls: list[int] = []
    model.liminal.encoder.register_forward_hook(lambda *_: calls.append(1))
    settings = {"max_length": 16, "cache_dir": tmp_path / "cache"}
    pooled = pooled_dataset(model, tokenizer, data, **settings)
    assert calls
    calls.clear()
    again = pooled_dataset(model, tokenizer, data, **settings)
    train(model, tmp_path / "run", again.remove_columns("text"), max_steps=6)
    assert not calls
    assert again["pooled_embeds"][:] == pooled["pooled_embeds"][:]
    with torch.no_grad():
        cached = model.eval()(pooled_embeds=torch.tensor(again["pooled_embeds"][:])).logits
        inputs = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
        torch.testing.assert_close(cached, model(**inputs).logits, atol=1e-5, rtol=0)
