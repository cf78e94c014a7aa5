"""The ONNX export against torch: families, other shapes than traced, conversations, 8 bits on the real MiniLM."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import MINILM, Run, tiny_model
from scoring_kit import tiny_checkpoint
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from liminal_hf import DEFAULT_CHECKPOINT, LiminalConfig, LiminalForPADRegression
from liminal_hf.data import load_emobank
from liminal_hf.export.hub import verify_weights
from liminal_hf.metrics import pearson
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.provenance import read_facts

onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX: pip install 'liminal_hf[onnx]'")
onnx = pytest.importorskip("onnx", reason="needs ONNX: pip install 'liminal_hf[onnx]'")

from liminal_hf.export.onnx import _compare, export_onnx  # noqa: E402
from liminal_hf.scoring.onnx_runtime import OnnxPAD  # noqa: E402

SHAPES = [(1, 1), (1, 5), (5, 16), (3, 40)]
TEXTS = [
    "I won!",
    "Go away and never come back.",
    "It is Tuesday.",
    "Help me, please! There is a bear in the kitchen and it has eaten all of the honey that we kept for the winter.",
    "Thank you so much for everything that you have done for us.",
    "ok",
]


def batch(rows: int, length: int) -> dict[str, Tensor]:
    """Random tokens, with padding on the right of the last row and on the left of the first of several."""
    generator = torch.Generator().manual_seed(rows * 100 + length)
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[-1, length // 2 + 1 :] = 0
    if rows > 1:
        mask[0, : length // 2] = 0
    return {"input_ids": torch.randint(3, 60, (rows, length), generator=generator) * mask, "attention_mask": mask}


def arrays(values: dict[str, Tensor], prefix: str = "") -> dict[str, np.ndarray]:
    return {f"{prefix}{name}": value.numpy() for name, value in values.items()}


# BERT's own way is that of MiniLM below, with a memory in `test_a_conversation_in_texts`.
@pytest.mark.parametrize(
    "family", ["modernbert", *(pytest.param(family, marks=pytest.mark.nightly) for family in ("gpt2", "t5"))]
)
@torch.no_grad()
def test_onnx_gives_what_torch_gives_in_every_shape_with_memory(family: str, tmp_path: Path) -> None:
    model = tiny_model(family, num_outer_steps=2, label_std=[0.3, 0.4, 0.5], label_mean=[0.1, 0.0, -0.1])
    # A memory that has its say, or the comparison would be blind to it.
    model.liminal.head.soul_kernel.memory_gate.fill_(3.0)
    model.liminal.head.soul_kernel.bond.weight.mul_(5)
    path = export_onnx(model, tmp_path, memory=True)
    assert path == tmp_path / "model.onnx"
    onnx_model = OnnxPAD(tmp_path, threads=1)
    for rows, length in SHAPES:
        memory = model.initial_memory(rows)
        state = onnx_model.initial_memory(rows)
        for turn in range(3):
            tokens = batch(rows, max(1, length - turn))
            expected = model(**tokens, memory=memory)
            found = onnx_model.run({**arrays(tokens), **state})
            for name in ("logits", "uncertainty", "pad_trajectory", "confidences", "step_attentions", "reflection"):
                np.testing.assert_allclose(found[name], expected[name].numpy(), atol=1e-5, rtol=0, err_msg=name)
            for name, value in expected.memory.items():
                np.testing.assert_allclose(found[f"new_memory.{name}"], value.numpy(), atol=1e-5, rtol=0, err_msg=name)
            memory = expected.memory
            state = {f"memory.{name}": found[f"new_memory.{name}"] for name in memory}
        assert (model(**tokens).logits - expected.logits).abs().max() > 1e-3


@pytest.fixture(scope="module")
def two_targets(tmp_path_factory: pytest.TempPathFactory) -> tuple[LiminalForPADRegression, Path]:
    """A model that was in training, and its export."""
    folder = tmp_path_factory.mktemp("two-targets") / "onnx"
    model = tiny_model("bert", num_outer_steps=1, targets=["joy", "anger"]).train()
    model.config.text_config._name_or_path = str(folder.parent)
    export_onnx(model, folder)
    return model, folder


def test_the_files_hold_nothing_of_this_machine_and_the_model_is_left_as_it_was(
    two_targets: tuple[LiminalForPADRegression, Path],
) -> None:
    model, folder = two_targets
    assert model.training and model.liminal.encoder.training
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.onnx"]
    for file in folder.iterdir():
        content = file.read_bytes()
        for trace in (str(folder.parent), "site-packages", str(Path(__file__).parents[1]), "stack_trace"):
            assert trace.encode() not in content, (file.name, trace)
    # Only standard operators, so that any ONNX runtime can read it.
    proto = onnx.load(folder / "model.onnx")
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert [value.name for value in proto.graph.input] == ["input_ids", "attention_mask"]
    assert not any("memory" in value.name for value in proto.graph.output)
    onnx.checker.check_model(proto, full_check=True)
    with pytest.raises(ValueError, match="no tokenizer"):
        OnnxPAD(folder).predict(["Hello."])
    with pytest.raises(ValueError, match="memory=True"):
        OnnxPAD(folder).initial_memory()


@pytest.fixture(scope="module")
def minilm_onnx(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default checkpoint on the real MiniLM."""
    folder = tmp_path_factory.mktemp("onnx")
    export_onnx(DEFAULT_CHECKPOINT, folder)
    return folder


def test_a_folder_says_how_it_is_read_and_what_it_is(minilm_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (minilm_onnx / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["library_name"], front["base_model"]) == ("cc-by-sa-4.0", "onnx", "minilm-emobank")
    assert front["model-index"] and read_facts(minilm_onnx) == read_facts(DEFAULT_CHECKPOINT)
    assert list(verify_weights(minilm_onnx)) == ["model.onnx"]
    # The lines in the card hand over all that the tokenizer gives.
    monkeypatch.chdir(minilm_onnx)
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0], names)
    assert set(names["batch"]) == {"input_ids", "token_type_ids", "attention_mask"}
    expected = OnnxPAD(minilm_onnx).predict(names["texts"])["logits"]
    np.testing.assert_allclose(names["outputs"]["logits"], expected, atol=1e-5, rtol=0)
    del names["inputs"]["token_type_ids"]
    without = names["session"].run(["logits"], names["inputs"])[0]
    np.testing.assert_array_equal(without, names["outputs"]["logits"])


def test_every_output_is_compared(tmp_path: Path) -> None:
    path = export_onnx(tiny_model("bert", num_outer_steps=1), tmp_path, memory=True)
    for part, output in (("spread_head", "uncertainty"), ("soul_kernel", "logits|new_memory")):
        model = tiny_model("bert", num_outer_steps=1)
        _compare(model, path, memory=True)
        with torch.no_grad():
            for name, parameter in model.liminal.head.named_parameters():
                parameter.add_(0.3 * (part in name))
        with pytest.raises(LiminalError, match=f"was not written: its ({output})"):
            _compare(model, path, memory=True)
    with torch.no_grad():
        model.liminal.head.pad_head[2].weight.add_(0.5)
    with pytest.raises(LiminalError, match=r"its logits differs.* in 8 bits"):
        _compare(model, path, memory=True, in_8_bits=True)


def test_other_targets(two_targets: tuple[LiminalForPADRegression, Path]) -> None:
    folder, tokens = two_targets[1], batch(3, 7)
    with torch.no_grad():
        expected = tiny_model("bert", num_outer_steps=1, targets=["joy", "anger"])(**tokens).logits.numpy()
    logits = OnnxPAD(folder).run(arrays(tokens))["logits"]
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)
    assert "(2, 2): joy, anger" in (folder / "README.md").read_text(encoding="utf-8")


def test_predict_on_minilm_matches_torch_whatever_the_batch(minilm_onnx: Path) -> None:
    model = LiminalForPADRegression.from_pretrained(DEFAULT_CHECKPOINT)
    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
    onnx_model = OnnxPAD(minilm_onnx, threads=1)
    for size in (1, 4, 32):
        found = onnx_model.predict(TEXTS, batch_size=size)
        assert sorted(found) == ["in_domain", "logits", "truncated", "uncertainty"]
        for row, text in enumerate(TEXTS):
            with torch.no_grad():
                expected = model(**tokenizer(text, return_tensors="pt"))
            np.testing.assert_allclose(found["logits"][row], expected.logits[0].numpy(), atol=1e-5, rtol=0)
            np.testing.assert_allclose(found["uncertainty"][row], expected.uncertainty[0].numpy(), atol=1e-5, rtol=0)
    long = onnx_model.predict([TEXTS[3] * 20], max_length=16)["logits"]
    assert np.array_equal(long, onnx_model.predict([TEXTS[3] * 40], max_length=16)["logits"])
    assert onnx_model.predict([])["logits"].shape == (0, 3)
    with pytest.raises(ValueError, match="Text 1 is empty"):
        onnx_model.predict(["a", " "])


@pytest.mark.nightly
def test_int8_loses_next_to_nothing_on_emobank(minilm_onnx: Path, data_dir: Path, tmp_path: Path) -> None:
    export_onnx(DEFAULT_CHECKPOINT, tmp_path, quantize="int8")
    test = load_emobank(data_dir)["test"][::5]  # all of it: `benchmark_speed.py --only backends`
    texts, labels = list(test["text"]), np.array(test["labels"])
    floating = OnnxPAD(minilm_onnx).predict(texts)["logits"]
    whole = OnnxPAD(tmp_path).predict(texts)["logits"]
    difference = np.abs(floating - whole)
    lost = float(pearson(floating, labels).mean() - pearson(whole, labels).mean())
    print(f"int8 against float: max {difference.max():.4f}, mean {difference.mean():.4f}, mean r lost {lost:.4f}")
    assert 0 < difference.mean() < 0.1 * floating.std()
    assert lost < 0.005
    sizes = [(folder / "model.onnx").stat().st_size for folder in (minilm_onnx, tmp_path)]
    assert sizes[1] < 0.7 * sizes[0]
    graph = onnx.load(tmp_path / "model.onnx").graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    head = {name: kind for name, kind in types.items() if name.startswith("liminal.head.")}
    assert len(head) > 20 and set(head.values()) == {onnx.TensorProto.FLOAT}
    # Six linear layers in each of six layers, and no other weight.
    assert sum(kind == onnx.TensorProto.INT8 and name.endswith("_quantized") for name, kind in types.items()) == 36


@pytest.mark.nightly
def test_int8_reaches_the_transposed_weights_of_gpt2(tmp_path: Path) -> None:
    model = tiny_model("gpt2", num_outer_steps=2)
    export_onnx(model, tmp_path, quantize="int8")
    types = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    # c_attn, c_proj, c_fc and c_proj in each of two layers.
    assert sum(kind == onnx.TensorProto.INT8 and name.endswith("_quantized") for name, kind in types.items()) == 8
    tokens = batch(5, 16)
    with torch.no_grad():
        expected = model(**tokens).logits.numpy()
    assert 0 < np.abs(OnnxPAD(tmp_path).run(arrays(tokens))["logits"] - expected).max() < 0.1 * expected.std()


@torch.no_grad()
def test_a_conversation_in_texts(minilm: Path, tmp_path: Path) -> None:
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(minilm)
    config = LiminalForPADRegression.from_encoder_pretrained(MINILM, latent_size=16, num_outer_steps=1).config
    config.text_config.num_hidden_layers = 1
    torch.manual_seed(0)
    model = LiminalForPADRegression(LiminalConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))).eval()
    torch.nn.init.normal_(model.liminal.head.pad_head[2].weight, std=0.1)
    export_onnx(model, tmp_path, tokenizer=tokenizer, memory=True)
    onnx_model = OnnxPAD(tmp_path)
    memory, state = model.initial_memory(2), None
    for texts in (TEXTS[:2], TEXTS[2:4], TEXTS[4:6]):
        output, state = onnx_model.turn(texts, state)
        expected = model(**tokenizer(texts, padding=True, return_tensors="pt"), memory=memory)
        memory = expected.memory
        np.testing.assert_allclose(output["logits"], expected.logits.numpy(), atol=1e-5, rtol=0)
    assert state is not None and state["memory.turn"].tolist() == [3, 3]
    # Texts on their own are first turns.
    first = onnx_model.turn(TEXTS)[0]["logits"]
    np.testing.assert_allclose(onnx_model.predict(TEXTS)["logits"], first, atol=1e-5, rtol=0)


def test_export_writes_the_persons_beside_the_model_when_asked(tmp_path: Path, run: Run) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "tiny")
    status, out, _ = run("export", checkpoint, "-o", tmp_path / "out", "--format", "onnx", "--person")
    assert status == 0 and out.split() == [str(tmp_path / "out" / name) for name in ("model.onnx", "person.onnx")]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "person.onnx")
    first = next(one for one in session.get_inputs() if one.name == "logits")
    assert first.shape[1] == 3 and "new_person.turn" in [one.name for one in session.get_outputs()]
    status, _, error = run("export", checkpoint, "-o", tmp_path / "hub", "--person")
    assert status and "--person go with --format onnx" in error and not (tmp_path / "hub").exists()


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    model = tiny_model("bert")
    with pytest.raises(ValueError, match="got 'int4'"):
        export_onnx(model, tmp_path, quantize="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no encoder"):
        export_onnx(LiminalForPADRegression(LiminalConfig(pooled_size=8)), tmp_path)
    with pytest.raises(ValueError, match="'linear' as configured has no memory"):
        export_onnx(tiny_model("bert", head="linear"), tmp_path, memory=True)
    with pytest.raises(ValueError, match="got BertModel"):
        export_onnx(model.liminal.encoder, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"has no model\.onnx"):
        OnnxPAD(tmp_path)
