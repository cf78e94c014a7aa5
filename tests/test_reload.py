"""The process in which a pushed repository is loaded as a stranger would."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from safetensors.torch import load_file
from test_hub import TEXTS, tokenizer

from liminal_hf.export import reload
from liminal_hf.export.checkpoint import Checkpoint
from liminal_hf.export.repository import write_repository
from liminal_hf.modeling.configuration_liminal import LiminalConfig
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression


@pytest.mark.parametrize("has_encoder", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_it_writes_the_same_logits(tmp_path: Path, has_encoder: bool) -> None:
    words = tokenizer() if has_encoder else None
    model: Any = (
        tiny_model("bert", max_seq_length=64)
        if has_encoder
        else LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16)).eval()
    )
    write_repository(Checkpoint(model, words), tmp_path / "repository")
    request = {
        "repo_id": str(tmp_path / "repository"),
        "revision": None,
        "without_package": True,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "attention": "sdpa" if has_encoder else None,
        "texts": TEXTS if has_encoder else None,
        "output": str(tmp_path / "logits.safetensors"),
    }
    # A package of that name is in the way; whoever imports it stops the process.
    (tmp_path / "liminal_hf").mkdir()
    (tmp_path / "liminal_hf" / "__init__.py").write_text("raise SystemExit('the package was imported')")
    code = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['reload', {json.dumps(request)!r}]\n"
    code += f"runpy.run_path({reload.__file__!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    logits = load_file(tmp_path / "logits.safetensors")["logits"]
    assert logits.shape == ((2, 3) if has_encoder else (4, 3))
    assert torch.equal(logits, reload.predict(model, words, request["texts"]))
