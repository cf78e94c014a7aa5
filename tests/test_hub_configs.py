"""Every recipe in hub_configs/ is read, built on a tiny encoder of its family, trained for a step, saved and loaded."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from training_kit import encoder_with_tokenizer, tables
from transformers import AutoModelForSequenceClassification, pipeline

from liminal_hf.training.fit import fit
from liminal_hf.training.recipe import Recipe

FOLDER = Path(__file__).parents[1] / "hub_configs"
# tests/test_senses.py trains those of sounds and images.
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if "-own-" not in path.stem)
# The family of each encoder, by its Hub id.
FAMILY = {
    "sentence-transformers/all-MiniLM-L6-v2": "bert",
    "sentence-transformers/all-mpnet-base-v2": "mpnet",
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": "bert",
    "intfloat/multilingual-e5-small": "bert",
    "openai-community/gpt2": "gpt2",
    "distilbert/distilgpt2": "gpt2",
    "bigscience/bloom-560m": "bloom",
    "FacebookAI/roberta-large": "roberta",
    "Qwen/Qwen3-0.6B": "qwen3",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "llama",
}
# What each recipe says with its `base`: the checkpoints that were trained by it are known by this.
SHA256 = {
    "bloom-560m-emobank": "c9806ef99f86b4fa",
    "distilgpt2-emobank": "035d7f696f250c13",
    "gpt2-emobank": "0bc87dd30c1e8b61",
    "minilm-emobank": "501912bebd52be94",
    "minilm-emobank-distilled": "9f0a57040cbfaad9",
    "minilm-emobank-distilled-twice": "c422c215a6e262be",
    "minilm-emobank-distilled-twice-finetuned": "71911f41f936847c",
    "minilm-emobank-finetuned": "a30eddf84a3b3f97",
    "minilm-emobank-lora": "089242960b046d3b",
    "minilm-goemotions-emobank": "c92510cbb851ab39",
    "minilm-goemotions-emobank-distilled": "48737313e95586a5",
    "minilm-goemotions-emobank-finetuned": "2a2764db2165b1f6",
    "multilingual-minilm-emobank": "8651007e297d0308",
    "qwen3-0.6b-emobank": "e1073b9f2e12d40f",
    "roberta-large-emobank": "f21c7fb0c98173c2",
}


@pytest.mark.parametrize("name", SHA256)
def test_a_recipe_with_its_base_says_what_was_trained(name: str) -> None:
    content = Recipe.from_yaml(FOLDER / f"{name}.yaml").to_dict()
    if content["distill"]:
        content["distill"]["teachers"] = [
            Path(teacher).relative_to(FOLDER.parent / "runs").as_posix() for teacher in content["distill"]["teachers"]
        ]
    assert hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16] == SHA256[name]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    header = text[: text.index("name:")]
    assert all(line.startswith("#") for line in header.splitlines() if line)
    assert "# To expect" in header and "# Time: " in header
    assert not re.search(r"(MEASURED|TIME)_|EXPECTED", header), "a placeholder is left"
    recipe = Recipe.from_yaml(path)
    assert recipe.name == path.stem
    assert recipe.hub.license == "cc-by-sa-4.0", "EmoBank's licence"
    assert recipe.model["encoder"] in FAMILY
    for teacher in recipe.distill.teachers if recipe.distill else []:
        if Path(teacher).parent.name == "pretrained":  # it ships with the package
            assert (Path(teacher) / "config.json").is_file()
            continue
        name, _, seed = Path(teacher).parent.name.rpartition("-")
        known = (FOLDER / f"{name}.yaml").is_file() or name == "plain"  # of scripts/build_default_checkpoint.py
        assert known and seed.isdigit(), "who reads it knows how to train the teacher"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_a_step_on_its_family(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))
    corpus = tmp_path / "goemotions"
    corpus.mkdir()
    for split in ("train", "dev", "test"):
        (corpus / f"{split}.tsv").write_text("".join(f"w{n} w1\t{n}\tid{n}\n" for n in range(28)), encoding="utf-8")
    recipe = Recipe.from_yaml(path)
    recipe = recipe.override(
        {
            "model.encoder": str(encoder_with_tokenizer(tmp_path / "encoder", FAMILY[recipe.model["encoder"]])),
            "model.revision": None,
            **({"model.encoder_layers": 1} if recipe.model.get("encoder_layers") else {}),
            # The tiny encoder has two layers.
            **({"model.depth_every": 1} if recipe.model.get("depth_every") else {}),
            **({"peft.layers": [1]} if recipe.peft.layers else {}),
            **{f"phases.{i}.frozen_layers": 1 for i, phase in enumerate(recipe.phases) if phase.frozen_layers},
            "data.dataset": None,
            "data.files": tables(tmp_path / "tables", train=24),
            "phases.*.training.max_steps": 1,
            "phases.*.training.use_cpu": True,
            "phases.*.training.disable_tqdm": True,
        }
    )
    if recipe.distill is not None:
        teacher = fit(recipe.override({"distill": None}), tmp_path / "teacher", data_dir=tmp_path).output_dir / "model"
        recipe = recipe.override({"distill.teachers": [str(teacher)]})
    result = fit(recipe, tmp_path / "run", data_dir=tmp_path)
    trained = [report["name"] for report in result.metrics["phases"]]
    assert trained == [phase.name for phase in recipe.phases]
    assert all(report["steps"] == 1 for report in result.metrics["phases"])
    loaded = AutoModelForSequenceClassification.from_pretrained(result.output_dir / "model").eval()
    batch = result.tokenizer(["w1 w2", "w3 w4 w5 w6"], padding=True, return_tensors="pt")
    with torch.no_grad():
        found, expected = loaded(**batch).logits, result.model(**batch).logits
    assert bool(found.isfinite().all()) and torch.equal(found, expected)
    row = pipeline("pad-regression", model=str(result.output_dir / "model"))("w1 w2")
    row = row[0] if isinstance(row, list) else row
    assert row["pleasure"] == pytest.approx(float(found[0, 0].clamp(-1, 1)), abs=1e-5)
