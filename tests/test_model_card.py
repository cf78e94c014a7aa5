"""The model card: its lines, its metadata, its code, and what it says when little is known."""

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny_model
from hub_rules import check_card
from huggingface_hub import ModelCard
from test_hub import tokenizer

from liminal_hf import DEFAULT_CHECKPOINT
from liminal_hf.export.hub import verify_weights
from liminal_hf.export.model_card import CORPORA, build_card, plugins, run_facts
from liminal_hf.modeling.configuration_liminal import DIMENSIONS, LiminalConfig
from liminal_hf.modeling.provenance import read_facts

# Every heading and every kind of line, in order; a figure may be any figure.
NUMBER = r"-?\d+\.\d+"
THREE = rf"{NUMBER} / {NUMBER} / {NUMBER}"
CELL = rf"{NUMBER} \[{NUMBER}, {NUMBER}\]"
PATTERN = rf"""---
base_model: sentence-transformers/all-MiniLM-L6-v2
(?s:.*)license: cc-by-sa-4\.0
(?s:.*)pipeline_tag: text-classification
(?s:.*)co2_eq_emissions:
  emissions: 1\.5
  source: codecarbon
weights_sha256:
  model\.safetensors: a{{64}}
model-index:
- name: pad
(?s:.*)    dataset:
      name: EmoBank
      type: emobank
      split: test
    metrics:
    - type: pearsonr
      value: 0\.7
      name: Pearson r, pleasure
      args:
        confidence_interval_95:
        - 0\.66
        - 0\.74
(?s:.*)---

# pad

Pleasure \(valence\), arousal and dominance of a text, as three numbers in \[-1, 1\]\. A recursive head (?s:.*)

## Use
(?s:.*)```python
from transformers import pipeline
(?s:.*)```
(?s:.*)```python
import torch
(?s:.*)```

`pipeline\("text-classification"\)`(?s:.*)`pad-regression` is recommended(?s:.*)

## Scale and calibration

- Labels were given on 1 to 5 and mapped by \(x - 3\) / 2, so that 0 is neutral\.
(?s:.*)- Mean of the training labels \(pleasure, arousal, dominance\): {THREE}; standard deviation: {THREE}\.(?s:.*)
- Standard deviation of the predictions, as a share of the labels': pleasure {NUMBER}, arousal (?s:.*)
- `uncertainty` is a standard deviation per target, scaled on the development split by {THREE}\.
- `percentile` places (?s:.*)

## Results

EmoBank, test split \(1000 texts\); in brackets 95% bootstrap intervals over the texts:

\| \| Pearson r \| CCC \| MAE \| RMSE \|
\|---\|---\|---\|---\|---\|
\| pleasure( \| {CELL}){{4}} \|
\| arousal( \| {CELL}){{4}} \|
\| dominance( \| {CELL}){{4}} \|
\| mean( \| {CELL}){{4}} \|

Human ceiling, (?s:.*): pleasure 0\.895, arousal 0\.680, dominance 0\.640, mean 0\.738\.

MAE needs a comparison: (?s:.*)
## Training

\| \| \|
\|---\|---\|
\| Encoder \| \[sentence-transformers/all-MiniLM-L6-v2\]\(https://\S+\) \|
\| Encoder revision \| `1110a24` \|
\| Encoder licence \| apache-2\.0 \|
\| Head \| `v7` on all layers, 5 x 1 steps, latent size 128 \|
\| Loss \| mse \|
\| Parameters \| 23,000,000, of which 500,000 in the head \|
\| Seeds \| 0, 1, 2 \|
\| Hardware \| two cores \|
\| Time \| 100 s \|
\| CO2 \| 1\.5 g, measured with codecarbon \|
\| Versions \| torch 2\.13\.0, transformers 5\.23\.0 \|

Data:

- \[EmoBank\]\(https://github\.com/JULIELab/EmoBank\), CC BY-SA 4\.0; rows: train 8062, test 1000
- \[GoEmotions\]\(https://\S+\), Apache 2\.0

The recipe:

```yaml
data:
  dataset: emobank
phases:
(?s:.*)```

## Licences

The weights are cc-by-sa-4\.0\. (?s:.*)EmoBank is CC BY-SA 4\.0\. GoEmotions is Apache 2\.0\.

## Limits
(?s:.*)
## Ethics

- Perceived, not felt emotion\. Not for diagnosis(?s:.*)
- Regulation \(EU\) 2024/1689(?s:.*)
## Citation

```bibtex
@inproceedings\{{buechel-hahn-2017-emobank,
(?s:.*)@inproceedings\{{demszky(?s:.*)@software\{{liminal-heartbeat,(?s:.*)
"""


def config(**changes: Any) -> LiminalConfig:
    return LiminalConfig(
        encoder_name_or_path="sentence-transformers/all-MiniLM-L6-v2",
        encoder_revision="1110a24",
        pooled_layers="all",
        num_outer_steps=5,
        uncertainty_scale=[1.1, 1.2, 1.3],
        prediction_quantiles=[[0.0, 1.0]] * 3,
        **changes,
    )


def facts() -> dict[str, Any]:
    names = [f"{metric}_{d}" for metric in ("pearson", "ccc", "mae", "rmse") for d in (*DIMENSIONS, "mean")]
    figures = dict.fromkeys(names, 0.7) | {f"sd_ratio_{d}": 0.6 for d in DIMENSIONS}
    metrics = {
        "test": figures,
        "intervals": {"test": {name: [0.66, 0.74] for name in names}},
        "rows": {"train": 8062, "test": 1000},
        "seed": 0,
        "phases": [{"seed": [1, 2]}, {"seed": 0}],
        "parameters": 23_000_000,
        "head_parameters": 500_000,
        "seconds": 100.2,
        "hardware": "two cores",
        "versions": {"transformers": "5.23.0", "torch": "2.13.0"},
    }
    recipe = {
        "data": {"dataset": "emobank"},
        "phases": [{"name": "one", "objective": "goemotions", "teachers": ["/home/me/runs/a"]}],
        "hub": {"license": "cc-by-sa-4.0", "repo_id": "me/pad", "tags": ["mine"]},
    }
    emissions = {"emissions": 1.5, "source": "codecarbon"}
    weights = {"model.safetensors": "a" * 64}
    return {"metrics": metrics, "recipe": recipe, "co2_eq_emissions": emissions, "weights_sha256": weights} | {
        "encoder_license": "apache-2.0"
    }


def test_the_golden_pattern() -> None:
    content = build_card(config(), facts()).content
    assert re.fullmatch(PATTERN, content.rstrip() + "\n"), content


def test_equal_inputs_give_an_equal_card() -> None:
    assert build_card(config(), facts()).content == build_card(config(), facts()).content


def test_metadata() -> None:
    card = build_card(config(), facts())
    assert check_card(card.content) == ([], [])
    again = ModelCard(card.content)
    results = {(r.metric_type, r.metric_name): r for r in again.data.eval_results}
    assert len(results) == 16
    result = results["ccc", "concordance correlation coefficient, arousal"]
    assert result.metric_value == 0.7 and result.metric_args == {"confidence_interval_95": [0.66, 0.74]}
    assert (result.dataset_name, result.dataset_split) == ("EmoBank", "test")
    # EmoBank has no repository of its authors on the Hub, so none is named.
    assert again.data.datasets == [CORPORA["goemotions"].hub_id]
    assert "mine" in again.data.tags


def test_no_path_of_a_machine() -> None:
    content = build_card(config(), facts()).content
    assert "/home/me" not in content and "  - a\n" in content
    assert "data\\x.csv" not in build_card(config(), {"recipe": {"note": "C:\\data\\x.csv"}}).content


def test_a_card_of_little_knowledge() -> None:
    card = build_card(LiminalConfig(pooled_size=8, head="linear"))
    assert check_card(card.content) == ([], [])
    for line in (
        "No evaluation was recorded with this checkpoint.",
        "The weights' licence was not named.",
        "| CO2 | not measured |",
        "| Seeds | not recorded |",
        "- not recorded",
        "A linear head on vectors of width 8 that the caller brings.",
        "0 is the middle of the scale.",
    ):
        assert line in card.content, line
    assert card.data.base_model is None and card.data.eval_results is None and card.data.license is None
    assert "None" not in card.content and "{{ " not in card.content and "buechel" not in card.content


def test_a_target_without_labels_has_no_figures() -> None:
    known = facts()
    known["metrics"]["test"] |= {"pearson_dominance": float("nan"), "ccc_dominance": None}
    known["metrics"]["intervals"]["test"]["mae_dominance"] = [float("nan")] * 2
    card = build_card(config(trained_targets=[True, True, False]), known)
    names = {(result.metric_type, result.metric_name.rpartition(" ")[2]) for result in card.data.eval_results}
    assert len(names) == 14 and not names & {("pearsonr", "dominance"), ("ccc", "dominance")}
    assert "nan" not in card.content.lower().replace("dominance", "")
    assert "| dominance |  |  | 0.7000 | 0.7000 [0.660, 0.740] |" in card.content
    assert "- `dominance` had no labels in training and is not answered." in card.content


def test_other_targets() -> None:
    named = LiminalConfig(pooled_size=8, targets=["joy", "anger"], label_range=[0, 5])
    card = build_card(named, {"metrics": {"test": {"pearson_joy": 0.5, "pearson_mean": 0.4}}})
    assert "joy, anger of a text, in [0, 5]." in card.content and 'row["joy"], row["anger"]' in card.content
    assert [result.metric_name for result in card.data.eval_results] == ["Pearson r, joy", "Pearson r, mean"]
    assert "- 2.5 is the middle of the scale." in card.content and "pleasure and" not in card.content


def test_a_checkpoint_that_was_trained_further() -> None:
    """The card names the base, keeps what binds (licence, language, data), and lists the base's results apart."""
    base = {**facts(), "repo_id": "me/base", "language": "en"}
    rows = {"trained_on": {"name": "reviews", "rows": {"train": 40}}}
    card = build_card(config(), {"base_model": "me/base", "base": base, "repo_id": "me/further", **rows})
    assert check_card(card.content) == ([], [])
    assert card.data.base_model == "me/base" and card.data["base_model_relation"] == "finetune"
    assert (card.data.license, card.data.language) == ("cc-by-sa-4.0", "en")
    assert card.data.datasets == [CORPORA["goemotions"].hub_id] and card.data.eval_results is None
    for line in (
        "It was trained further from me/base: see Base.",
        "No evaluation was recorded with this checkpoint.",
        "Trained further from me/base; its licence: cc-by-sa-4.0.",
        "- [EmoBank](https://github.com/JULIELab/EmoBank), CC BY-SA 4.0; rows: train 8062, test 1000",
        "| pleasure | 0.700 [0.660, 0.740]",
        "Data:\n\n- reviews; rows: train 40\n",
        "EmoBank is CC BY-SA 4.0.",
    ):
        assert line in card.content, line


def test_the_card_of_the_package_is_built_from_its_facts() -> None:
    folder = Path(DEFAULT_CHECKPOINT)
    known = {**read_facts(folder), "weights_sha256": verify_weights(folder)}
    card = build_card(LiminalConfig.from_pretrained(folder), known)
    assert card.content == (folder / "README.md").read_text(encoding="utf-8")
    assert check_card(card.content) == ([], [])


def test_own_tables() -> None:
    recipe = {"data": {"files": {"train": "/home/me/messages.csv"}, "scale": [1, 9]}, "phases": []}
    content = build_card(config(), {"recipe": recipe, "metrics": {"rows": {"train": 7}}}).content
    assert "- tables of the publisher (messages.csv); rows: train 7" in content
    assert "Labels were given on 1 to 9 and mapped linearly" in content and "/home/me" not in content


def test_a_distilled_model_names_its_teachers_and_their_texts() -> None:
    distill = {"teachers": ["/home/me/runs/pad-0/model", "/home/me/b"], "texts": "goemotions", "num_texts": 3}
    recipe = {"data": {"dataset": "emobank"}, "phases": [], "distill": {**distill, "weight": 0.25}}
    content = build_card(config(), {"recipe": recipe, "metrics": {"rows": {"train": 10, "test": 2}}}).content
    assert "| Loss | mse |\n| Soft targets | 25% of the target is the mean of pad-0, b |\n| Parameters" in content
    assert "CC BY-SA 4.0; rows: train 7, test 2\n" in content
    assert "Apache 2.0; 3 of its training texts, read by the teachers\n" in content
    assert "  - pad-0\n  - b\n" in content and "/home/me" not in content
    recipe["distill"] |= {"stretch": True}
    assert "mean of pad-0, b, spread as the labels are |\n" in build_card(config(), {"recipe": recipe}).content
    assert "Soft targets" not in build_card(config(), {"recipe": {**recipe, "distill": None}}).content


def test_a_local_encoder_is_not_named(tmp_path: Path) -> None:
    card = build_card(LiminalConfig(encoder_name_or_path=str(tmp_path)))
    assert str(tmp_path) not in card.content and "an encoder of the bert family" in card.content


def test_run_facts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert run_facts(tmp_path) == {}
    (tmp_path / "metrics.json").write_text('{"seed": 3}')
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"name": "a"}))
    assert run_facts(tmp_path) == run_facts(tmp_path / "model") == {"metrics": {"seed": 3}, "recipe": {"name": "a"}}


def test_the_code_runs_when_pasted(tmp_path: Path) -> None:
    tiny_model("bert", max_seq_length=64).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = tiny_model("bert", max_seq_length=64)
    content = build_card(model.config, {"repo_id": str(tmp_path)}).content
    blocks = re.findall(r"```python\n(.*?)```", content, re.DOTALL)
    assert len(blocks) == 2
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        for block in blocks:
            exec(block, {})
    assert len(re.findall(NUMBER, output.getvalue())) >= 9, output.getvalue()


def test_a_plugin_is_named_with_its_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dist = tmp_path / "calm_head-1.2.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: calm-head\nVersion: 1.2\n")
    (dist / "entry_points.txt").write_text("[liminal_hf.heads]\ncalm = calm_head:Head\n")
    (tmp_path / "calm_head.py").write_text("class Head: ...\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    calm = LiminalConfig(pooled_size=8, head="calm")
    assert plugins(calm) == [("head", "calm", "calm-head==1.2")]
    assert '- head `calm`: `pip install "calm-head==1.2"`' in build_card(calm).content


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"head": "v7"}, "A head with a single step on top of"),
        ({"head": "v7", "num_outer_steps": 5}, "A recursive head refines its answer 5 times on top of"),
        ({"head": "v8"}, "in 6 steps of depth, with an answer after each."),
        ({"head": "v8", "exit_threshold": 0.1}, "an answer after each; a text is read no further where little"),
    ],
)
def test_the_card_says_what_the_head_does(fields: dict[str, Any], said: str) -> None:
    assert said in str(build_card(LiminalConfig(encoder_name_or_path="microsoft/x", **fields)))
