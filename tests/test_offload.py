"""Weights that wait in memory or on the disk until their layer runs give the answers of the whole model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from transformers import AutoTokenizer

from liminal_hf import DEFAULT_CHECKPOINT, LiminalForPADRegression

CPU = torch.device("cpu")
TEXTS = ["I love this.", "This is the worst day of my life, and nothing helps.", "ok"]
PARTS = {"liminal.encoder": "disk", "liminal.pooler": "cpu", "liminal.head": "cpu"}


def load(**options: Any) -> LiminalForPADRegression:
    return LiminalForPADRegression.from_pretrained(DEFAULT_CHECKPOINT, **options).eval()


def on_cpu(folder: Path) -> Any:
    model = load()
    cpu_offload(model, CPU)
    return model


def on_disk(folder: Path) -> Any:
    model = load()
    disk_offload(model, folder, CPU)
    return model


def dispatched(folder: Path) -> Any:
    return dispatch_model(load(), PARTS, main_device="cpu", offload_dir=folder)


def loaded_onto_disk(folder: Path) -> Any:
    model = load(device_map="auto", max_memory={"cpu": "40MB"}, offload_folder=folder)
    assert "disk" in model.hf_device_map.values()
    return model


# The first three move the weights of a loaded model, which gives the same bits. The last reads them from the
# checkpoint's file each time, where they begin at any multiple of 4 bytes, and some processors then sum in another
# order: one unit in the last place.
ROUTES = [(on_cpu, 0.0), (on_disk, 0.0), (dispatched, 0.0), (loaded_onto_disk, 1e-6)]


@torch.no_grad()
@pytest.mark.parametrize(("offload", "tolerance"), ROUTES, ids=[route.__name__ for route, _ in ROUTES])
def test_an_offloaded_model_answers_as_a_whole_one(
    tmp_path: Path, offload: Callable[[Path], Any], tolerance: float
) -> None:
    batch = AutoTokenizer.from_pretrained(DEFAULT_CHECKPOINT)(TEXTS, padding=True, return_tensors="pt")
    want, model = load()(**batch), offload(tmp_path)
    # Away between the calls, and back again for each of them.
    assert all(value.device.type == "meta" for value in model.liminal.encoder.parameters())
    for _ in range(2):
        answer = model(**batch)
        torch.testing.assert_close(answer.logits, want.logits, atol=tolerance, rtol=0)
        torch.testing.assert_close(answer.uncertainty, want.uncertainty, atol=tolerance, rtol=0)
