"""Parity with the original's code, and conversion of its weights."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from liminal_hf import LiminalForPADRegression

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "convert_neurolab_to_hf.py"
GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.safetensors"))

_spec = importlib.util.spec_from_file_location("convert_neurolab_to_hf", SCRIPT)
assert _spec is not None and _spec.loader is not None
neurolab = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(neurolab)


def test_every_published_variant_has_its_vectors() -> None:
    assert {path.name.split("-")[0] for path in FILES} == set(neurolab.VARIANTS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parity(path: Path) -> None:
    variant, compared, difference = neurolab.largest_difference(path)
    assert variant == path.name.split("-")[0]
    # Two cases of three turns, each with at least y and the confidences.
    assert compared >= 12 and compared == sum("/out/" in name for name in load_file(path))
    assert difference <= 1e-10


def test_check_as_a_command_passes(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check", GOLDEN], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(path.name in done.stdout for path in FILES)


@pytest.mark.parametrize("output", ["y", "memory", "confidences"])
def test_check_notices_a_difference(output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(GOLDEN / "v6-dim16-K5.safetensors")
    tensors[f"affect/turn2/out/{output}"].view(-1)[0] += 1e-8
    save_file(tensors, tmp_path / "off.safetensors")
    assert neurolab.main(["--check", str(tmp_path)]) == 1
    assert "1.00e-08" in capsys.readouterr().out


def test_check_notices_what_is_not_a_number_and_what_has_another_shape(tmp_path: Path) -> None:
    tensors = load_file(GOLDEN / "v3-dim16-K2.safetensors")
    tensors["affect/turn1/out/pad"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    assert neurolab.largest_difference(tmp_path / "nan.safetensors")[2] == float("inf")
    tensors["affect/turn1/out/pad"] = torch.zeros(3, dtype=torch.float64)
    save_file(tensors, tmp_path / "shape.safetensors")
    with pytest.raises(neurolab.ConversionError, match="pad has shape"):
        neurolab.largest_difference(tmp_path / "shape.safetensors")


def test_check_of_a_folder_without_vectors_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert neurolab.main(["--check", str(tmp_path)]) == 2
    assert "no folder with parity files" in capsys.readouterr().err
    (tmp_path / "broken.safetensors").write_bytes(b"not what it says")
    assert neurolab.main(["--check", str(tmp_path)]) == 1


@pytest.mark.parametrize("path", [path for path in FILES if "K5" in path.name], ids=lambda path: path.stem)
@torch.no_grad()
def test_a_converted_checkpoint_computes_what_the_original_computes(path: Path, tmp_path: Path) -> None:
    assert neurolab.main([str(path), "-o", str(tmp_path / "model")]) == 0
    model = LiminalForPADRegression.from_pretrained(tmp_path / "model").eval()
    vectors = load_file(path)
    assert model.config.head == path.name.split("-")[0] and model.dtype == torch.float64
    x, affect, y0 = (vectors[f"affect/turn0/in/{name}"] for name in ("x", "affect", "y0"))
    output = model(pooled_embeds=x, affect=affect, initial_answer=y0)
    torch.testing.assert_close(output.confidences[0], vectors["affect/turn0/out/confidences"], atol=1e-10, rtol=0)
    if model.config.head in ("v1", "v2"):
        assert not output.logits.any()  # the readout is ours and not trained yet
    else:
        torch.testing.assert_close(output.logits, vectors["affect/turn0/out/pad"], atol=1e-10, rtol=0)


def test_a_bare_state_dict_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {
        name.removeprefix("weights/"): value.float()
        for name, value in load_file(GOLDEN / "v6-dim16-K5.safetensors").items()
        if name.startswith("weights/")
    }
    save_file(weights, tmp_path / "original.safetensors")
    command = [str(tmp_path / "original.safetensors"), "-o", str(tmp_path / "model")]
    # v3 and v6 have the same weights: guessing would give other numbers without a word.
    assert neurolab.main(command) == 2
    assert "--variant v6" in capsys.readouterr().err
    assert neurolab.main([*command, "--variant", "v6", "--num-outer-steps", "3"]) == 0
    config = LiminalForPADRegression.from_pretrained(tmp_path / "model").config
    assert (config.head, config.latent_size, config.num_outer_steps, config.num_inner_steps) == ("v6", 16, 3, 4)


def test_what_is_not_the_original_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(name: str, *words: str) -> None:
        assert neurolab.main([str(tmp_path / name), "-o", str(tmp_path / "model")]) == 2
        message = capsys.readouterr().err
        assert all(word in message for word in words), message
        assert not (tmp_path / "model").exists()

    refused("missing.safetensors", "no file")
    (tmp_path / "weights.pt").write_bytes(b"\x80\x02.")
    refused("weights.pt", "pickle", "safetensors")
    weights = {
        name.removeprefix("weights/"): value
        for name, value in load_file(GOLDEN / "v4-dim16-K5.safetensors").items()
        if name.startswith("weights/")
    }
    save_file({**weights, "extra.weight": torch.zeros(1)}, tmp_path / "extra.safetensors")
    refused("extra.safetensors", "extra.weight", "pad_head")
    lacking = {name: value for name, value in weights.items() if name != "attn_core.q_proj.bias"}
    save_file(lacking, tmp_path / "lacking.safetensors")
    refused("lacking.safetensors", "attn_core.q_proj.bias")
