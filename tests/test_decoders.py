"""`scripts/decoders.py`: the decoder is one, is made once, and the recipe reads it in each way."""

import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from training_kit import texts_and_labels
from transformers import AutoModel, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import benchmark  # noqa: E402
import decoders  # noqa: E402

from liminal_hf.training.recipe import Recipe  # noqa: E402

pytestmark = pytest.mark.nightly


@pytest.mark.filterwarnings("ignore")
def test_a_decoder_is_made_and_read(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2}
    texts = [text for text, _ in texts_and_labels(24, 0)]
    decoders.make_decoder(tmp_path / "decoder", texts, size, batch=8)
    model, tokenizer = (auto.from_pretrained(tmp_path / "decoder") for auto in (AutoModel, AutoTokenizer))
    # It looks back only: what comes later changes nothing of what came before.
    first, second = (tokenizer(text, return_tensors="pt") for text in (texts[0], texts[0] + " and more"))
    shared = first["input_ids"].shape[1] - 1
    with torch.no_grad():
        states = [model.eval()(**batch).last_hidden_state[:, :shared] for batch in (first, second)]
    torch.testing.assert_close(*states)

    made = (tmp_path / "decoder" / "model.safetensors").stat().st_mtime_ns
    decoders.make_decoder(tmp_path / "decoder", texts, size)
    assert (tmp_path / "decoder" / "model.safetensors").stat().st_mtime_ns == made

    recipe = Recipe.from_yaml(decoders.RECIPE).override({"phases.0.training.num_train_epochs": 1})
    grid = decoders.grid_of(tmp_path / "decoder", recipe)
    rows = {name: texts_and_labels(16, seed) for seed, name in enumerate(("train", "validation", "test"))}
    corpus = {
        name: Dataset.from_dict(
            {"text": [text for text, _ in part], "labels": [[(v - 3) / 2 for v in y] for _, y in part]}
        )
        for name, part in rows.items()
    }
    bench = benchmark.Benchmark(grid, tmp_path / "work", DatasetDict(corpus))
    bench.run(grid.systems, [0], lambda: None)
    table = bench.table([0], "python scripts/decoders.py")
    assert list(table["systems"]) == [system.name for system in grid.systems] and not table["missing"]
    found = [row["mae"]["mean"] for row in table["systems"].values()]
    assert len(set(found)) == len(found), "each pooling reads something else"
    assert benchmark.markdown(table).count("layer") >= len(decoders.READ)
