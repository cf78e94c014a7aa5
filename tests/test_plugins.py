"""A head, a pooler and a loss from another distribution: found by entry point, trained, saved, reloaded, missed."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import tiny_model

import liminal_hf
from liminal_hf import HEADS, LOSSES, POOLERS

MODULE = '''
from torch import nn

from liminal_hf import Head, HeadOutput


class ForecastHead(Head):
    """Two readings of the pooled states, the second of which corrects the first."""

    def __init__(self, config, pooled_size):
        super().__init__(config, pooled_size)
        self.first, self.correction = nn.Linear(pooled_size, 3), nn.Linear(pooled_size + 3, 3)

    def forward(self, inputs):
        from torch import cat, stack

        first = self.first(inputs.pooled)
        second = first + self.correction(cat([inputs.pooled, first], dim=-1))
        return HeadOutput(self.to_label_units(stack([first, second], dim=1)))


class GatedPooler(nn.Module):
    """The mean of the real tokens, each feature through a learned gate."""

    def __init__(self, hidden_size):
        super().__init__()
        self.gate = nn.Linear(hidden_size, hidden_size)

    def forward(self, states, mask):
        weights = mask.to(states.dtype)[..., None]
        return ((states * self.gate(states).sigmoid()) * weights).sum(1) / weights.sum(1)


def absolute(predictions, labels, mask, num_items=None, log_variance=None):
    total = ((predictions - labels).abs() * mask).sum()
    return total / (mask.sum().clamp_min(1) if num_items is None else num_items)
'''
ENTRY_POINTS = """[liminal_hf.heads]
forecast = weather:ForecastHead

[liminal_hf.poolers]
gated = weather:GatedPooler
mean = weather:GatedPooler

[liminal_hf.losses]
absolute = weather:absolute
"""
NAME, VERSION = "liminal-weather", "1.2"

TRAIN = """
import sys
import torch
from conftest import tiny_config
from transformers import AutoModelForSequenceClassification
from liminal_hf import HEADS, LiminalConfig, LiminalForPADRegression
assert "forecast" in HEADS and "forecast" in list(HEADS) and HEADS.get("forecast").__module__ == "weather"
assert "snow" not in HEADS and HEADS.get("snow") is None
folder = sys.argv[1]
torch.manual_seed(0)
config = LiminalConfig(text_config=tiny_config("bert"), head="forecast", pooling="gated", loss="absolute")
model = LiminalForPADRegression(config)
batch = {"input_ids": torch.randint(3, 60, (4, 9)), "attention_mask": torch.ones(4, 9, dtype=torch.long)}
labels = torch.rand(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
before = {name: value.clone() for name, value in model.state_dict().items()}
loss = model(**batch, labels=labels).loss
loss.backward()
optimizer.step()
moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
wanted = ("head.first.weight", "head.correction.bias", "pooler.pool.gate.weight")
assert {"liminal." + name for name in wanted} <= moved, moved
model.eval()
assert torch.isclose(model(**batch, labels=labels).loss, (model(**batch).logits - labels).abs().mean())
model.save_pretrained(folder)
again = AutoModelForSequenceClassification.from_pretrained(folder)
assert type(again.liminal.head).__module__ == "weather"
assert torch.equal(again(**batch).logits, model(**batch).logits)
# A plugin does not take over a name of ours.
assert type(LiminalForPADRegression(LiminalConfig(pooling="mean")).liminal.pooler.pool).__name__ == "MeanPooler"
print("trained", flush=True)
"""
LOAD = """
import sys
from transformers import AutoModelForSequenceClassification
import liminal_hf
AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
"""


def build_wheel(folder: Path) -> Path:
    """The wheel of the plugin, written by hand: a test of ours needs no build backend."""
    info = f"liminal_weather-{VERSION}.dist-info"
    files = {
        "weather.py": MODULE,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text.encode())}\n"
        for name, text in files.items()
    )
    wheel = folder / f"liminal_weather-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(name, text)
    return wheel


def run(code: str, argument: Path, *extra_path: Path) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (Path(liminal_hf.__file__).parents[1], here, *extra_path)))
    return subprocess.run(
        [sys.executable, "-c", code, str(argument)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HOME": str(argument.parent)},
        timeout=240,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the plugin is installed into."""
    folder = tmp_path_factory.mktemp("plugin")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    command += [str(folder / "site"), str(build_wheel(folder))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_a_plugin_is_trained_saved_reloaded_and_named_when_missing(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    trained = run(TRAIN, folder, installed)
    assert trained.stdout == "trained\n", trained.stderr[-3000:]
    config = json.loads((folder / "config.json").read_text())
    assert config["plugins"] == dict.fromkeys(("head", "pooler", "loss"), f"{NAME}=={VERSION}")
    missing = run(LOAD, folder)
    assert missing.returncode != 0
    wanted = f"pip install '{NAME}=={VERSION}'"
    assert wanted in missing.stderr.splitlines()[-1], missing.stderr[-3000:]
    assert run(LOAD, folder, installed).returncode == 0


def test_what_is_ours_is_no_plugin() -> None:
    assert tiny_model("bert").config.plugins == {}
    for registry in (HEADS, POOLERS, LOSSES):
        assert all(registry.plugin_distribution(name) is None for name in registry)
