"""Recipes: what is read, what is coerced, what is refused and how the refusal reads."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from liminal_hf.modeling.errors import LiminalError
from liminal_hf.training.recipe import Phase, Recipe, RecipeError, example_recipe


def content(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model": {"encoder": "gpt2", "head": "v7"},
        "data": {"dataset": "emobank"},
        "phases": [{"name": "head", "trainable": "head", "training": {"learning_rate": 1e-3}}],
    }
    return {**base, **changes}


def changed(**overrides: Any) -> Recipe:
    """The base recipe with values by dotted key (__ for the dot)."""
    return Recipe.from_dict(content()).override({key.replace("__", "."): value for key, value in overrides.items()})


def test_defaults_are_written_out_and_read_back(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(content(hub={"repo_id": "me/mine", "private": False}, peft={"r": 8}))
    path = tmp_path / "copy.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    again = Recipe.from_yaml(path)
    assert again == recipe
    assert (again.hub.repo_id, again.peft.r, again.peft.alpha, again.seed) == ("me/mine", 8, 32, 0)


def test_a_recipe_takes_its_name_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content()), encoding="utf-8")
    assert Recipe.from_yaml(path).name == "mine"


@pytest.mark.parametrize(
    ("where", "given", "expected"),
    [
        ("phases.0.training.learning_rate", "1e-3", 1e-3),  # YAML reads it as a string
        ("phases.0.training.num_train_epochs", 3, 3.0),
        ("phases.0.training.per_device_train_batch_size", "16", 16),
        ("phases.0.training.bf16", "true", True),
        ("phases.0.training.lr_scheduler_type", "cosine", "cosine"),
        ("model.head_dropout", "5e-1", 0.5),
        ("model.latent_size", 64.0, 64),
    ],
)
def test_values_take_the_type_of_their_field(where: str, given: object, expected: object) -> None:
    node: Any = Recipe.from_dict(content()).override({where: given}).to_dict()
    for key in where.split("."):
        node = node[int(key)] if isinstance(node, list) else node[key]
    assert node == expected and type(node) is type(expected)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("modle", {}, "The recipe has no 'modle'. Did you mean 'model'?"),
        ("model.latent_siz", 8, "model has no 'latent_siz'. Did you mean 'latent_size'?"),
        ("model.label_mean", [0, 0, 0], "model has no 'label_mean'."),
        ("model.head", "v9", "model.head: Unknown head 'v9'."),
        ("model.pooling", "meen", "Did you mean 'mean'?"),
        ("model.loss", "msee", "Did you mean 'mse'?"),
        ("phases.0.model.loss", "msee", "phases.0.model.loss: Unknown loss 'msee'"),
        ("model.latent_size", "wide", "model.latent_size: Input should be a valid integer"),
        ("model.encoder", "", "model.encoder is missing"),
        ("data.max_len", 3, "data has no 'max_len'. Did you mean 'max_length'?"),
        ("data.dataset", "emobnk", "data.dataset: Input should be 'emobank'"),
        ("data.max_length", 0, "data.max_length: Input should be greater than or equal to 2, got 0."),
        ("data.scale", [5, 1], "data: scale must be [low, high]"),
        ("data.files", {"trian": "x"}, "got 'trian'"),
        ("phases", [], "phases: at least one phase"),
        ("phases.0.name", "a/b", "phases.0: name is a folder's name"),
        ("phases.0.objective", "goemotion", "phases.0.objective: Input should be 'pad' or 'goemotions'"),
        ("phases.0.ema_decay", 1, "phases.0.ema_decay: Input should be less than 1, got 1."),
        ("phases.0.ema_decay", "much", "phases.0.ema_decay: Input should be a valid number"),
        ("phases.0.layer_decay", 0, "phases.0.layer_decay"),
        ("phases.0.seeds", [1, 1], "phases.0: seeds must differ"),
        ("phases.0.keep", 0, "phases.0.keep: Input should be greater than 0, got 0."),
        ("phases.0", {"name": "a", "trainable": "head", "keep": 0.5}, "phases.0: keep goes with `trainable: all`"),
        ("phases.0.training.learning_rat", 1, "phases.0.training has no 'learning_rat'. Did you mean 'learning_rate'?"),
        ("phases.0.training.learning_rate", "fast", "phases.0.training.learning_rate: Input should be a valid number"),
        ("phases.0.training.learning_rate", float("nan"), "should be a finite number"),
        ("phases.0.training.lr_scheduler_type", "cosin", "phases.0.training.lr_scheduler_type: Input should be 'lin"),
        ("phases.0.training.seed", 3, "phases.0.training.seed is not for a recipe: write `seed:` at the top"),
        ("phases.0.training.output_dir", "/etc", "phases.0.training.output_dir is not for a recipe"),
        ("phases.0.training.push_to_hub", True, "liminal push"),
        ("phases.0.training.hub_model_id", "a/b", "phases.0.training has no 'hub_model_id'"),
        (
            "phases.0.training.deepspeed",
            "/etc/passwd",
            "phases.0.training.deepspeed: Input should be a valid dictionary",
        ),
        ("phases.0.training.accelerator_config", "x.json", "accelerator_config: Input should be a valid dictionary"),
        ("seed", "many", "seed: Input should be a valid integer"),
        ("peft.r", 0, "peft.r: Input should be greater than or equal to 1, got 0."),
        ("distill", {"teachers": []}, "distill.teachers"),
        ("distill", {"teachers": ["a"], "weight": 2}, "distill.weight: Input should be less than or equal to 1"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_right(where: str, value: object, message: str) -> None:
    with pytest.raises(RecipeError) as found:
        Recipe.from_dict(content()).override({where: value})
    assert message in str(found.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainable": "all"}, "`cache: true` keeps the states of a frozen encoder"),
        ({"model": {"pooled_layers": "mix"}}, "learned in training"),
        ({"model": {"pooling": "attention"}}, "learned in training"),
        ({"model": {"token_attention": True}}, "reads the tokens"),
        ({"training": {"train_sampling_strategy": "group_by_length"}}, "needs tokens"),
    ],
)
def test_a_cache_of_what_is_learned_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(content(phases=[{"name": "one", "trainable": "head", "cache": True, **fields}]))


def test_fields_of_an_earlier_phase_count_in_a_later_one() -> None:
    phases = [
        {"name": "one", "trainable": "all", "model": {"token_attention": True}},
        {"name": "two", "trainable": "head", "cache": True},
    ]
    with pytest.raises(RecipeError, match=r"phases\.1: `cache: true`"):
        Recipe.from_dict(content(phases=phases))
    phases[1]["model"] = {"token_attention": False}
    assert len(Recipe.from_dict(content(phases=phases)).phases) == 2


def test_contradictions_are_refused() -> None:
    with pytest.raises(RecipeError, match="either `dataset: emobank` or `files:`"):
        Recipe.from_dict(content(data={}))
    with pytest.raises(RecipeError, match="either `dataset: emobank` or `files:`"):
        Recipe.from_dict(content(data={"dataset": "emobank", "files": {"train": "a.csv"}}))
    with pytest.raises(RecipeError, match="`train` is missing"):
        Recipe.from_dict(content(data={"files": {"test": "a.csv"}}))
    with pytest.raises(RecipeError, match="no head to keep"):
        Recipe.from_dict(content(phases=[{"name": "e", "objective": "goemotions", "trainable": "all"}]))
    with pytest.raises(RecipeError, match="trains the encoder"):
        Recipe.from_dict(content(phases=[{"name": "e", "objective": "goemotions", "trainable": "head"}]))
    with pytest.raises(RecipeError, match="trains the encoder"):
        Recipe.from_dict(content(phases=[{"name": "e", "objective": "goemotions", "trainable": "uncertainty"}]))
    with pytest.raises(RecipeError, match="a name of its own"):
        Recipe.from_dict(content(phases=[{"name": "one"}, {"name": "one"}]))
    with pytest.raises(RecipeError, match="phases is missing"):
        Recipe.from_dict({"model": {"encoder": "gpt2"}, "data": {"dataset": "emobank"}})


def test_several_faults_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as found:
        Recipe.from_dict(content(sed=1, data={"dataset": "emobank", "max_length": "long"}))
    assert "no 'sed'. Did you mean 'seed'?" in str(found.value) and "data.max_length" in str(found.value)


def test_paths_start_at_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    recipe = content(data={"files": {"train": "mine.csv"}}, distill={"teachers": ["../teacher"]})
    (home / "r.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    read = Recipe.from_yaml("home/r.yaml")
    assert read.data.files == {"train": str(home / "mine.csv")}
    assert read.distill is not None and read.distill.teachers == [str(tmp_path / "teacher")]
    assert Recipe.from_dict(read.to_dict()) == read


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch SPOILED']",
        "model: !!python/object/new:os.system ['touch SPOILED']",
        "model: !!python/name:os.system",
        "name: {[}",
    ],
)
def test_a_recipe_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text(text)
    with pytest.raises(RecipeError, match="is not plain YAML"):
        Recipe.from_yaml(tmp_path / "evil.yaml")
    assert not (tmp_path / "SPOILED").exists()


def test_a_file_that_is_no_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="There is no recipe at"):
        Recipe.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(RecipeError, match="must hold a mapping"):
        Recipe.from_yaml(tmp_path / "list.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(RecipeError, match="is not plain YAML"):
        Recipe.from_yaml(tmp_path / "bytes.yaml")
    (tmp_path / "huge.yaml").write_text("a: " + "x" * 1_000_001)
    with pytest.raises(RecipeError, match="at most 1000000"):
        Recipe.from_yaml(tmp_path / "huge.yaml")


def test_overrides_reach_phases_by_name_place_and_all() -> None:
    recipe = Recipe.from_dict(content(phases=[{"name": "one"}, {"name": "two"}]))
    assert [p.training for p in recipe.override({"phases.two.training.max_steps": 5}).phases] == [{}, {"max_steps": 5}]
    assert recipe.override({"phases.0.layer_decay": 0.5}).phases[0].layer_decay == 0.5
    assert all(p.ema_decay == 0.9 for p in recipe.override({"phases.*.ema_decay": 0.9}).phases)
    assert recipe.override({"distill.teachers": ["a"]}).distill is not None
    with pytest.raises(RecipeError, match=r"there is no 'three' in \['one', 'two'\]"):
        recipe.override({"phases.three.name": "x"})
    with pytest.raises(RecipeError, match="inside a plain value"):
        recipe.override({"seed.much": 1})
    assert recipe.phases[1].training == {}, "the recipe itself does not change"


BASE = """
name: base
model: {encoder: gpt2, latent_size: 64}
data: {dataset: emobank, max_length: 96}
phases:
  - {name: head, trainable: head, training: {learning_rate: 1.0e-3, weight_decay: 0.5}}
  - {name: tune, training: {learning_rate: 1.0e-5}}
hub: {license: cc-by-sa-4.0, tags: [emobank]}
"""


def based(folder: Path, text: str) -> Recipe:
    (folder / "shared").mkdir(exist_ok=True)
    (folder / "shared" / "base.yaml").write_text(BASE)
    (folder / "mine.yaml").write_text(f"base: shared/base.yaml\n{text}")
    return Recipe.from_yaml(folder / "mine.yaml")


def test_a_recipe_says_only_what_differs_from_its_base(tmp_path: Path) -> None:
    recipe = based(tmp_path, "model: {latent_size: 32}\nphases: {head: {training: {weight_decay: 0}}, last: {}}\n")
    assert recipe.name == "mine" and recipe.model == {"encoder": "gpt2", "latent_size": 32}
    assert [phase.name for phase in recipe.phases] == ["head", "tune", "last"]
    assert recipe.phases[0].training == {"learning_rate": 1e-3, "weight_decay": 0.0}
    assert recipe.data.max_length == 96 and recipe.hub.license == "cc-by-sa-4.0"
    assert Recipe.from_dict(recipe.to_dict()) == recipe, "the base is resolved"
    ordered = based(tmp_path, "phases: [{name: first}, tune, head]\n")
    assert [phase.name for phase in ordered.phases] == ["first", "tune", "head"]
    assert ordered.phases[2].training["learning_rate"] == 1e-3
    assert [phase.training for phase in based(tmp_path, "phases: [{name: head}]\n").phases] == [{}]


def test_own_data_over_a_base_take_nothing_that_belongs_to_its_data(tmp_path: Path) -> None:
    recipe = based(tmp_path, "data: {files: {train: my.csv}}\n")
    assert recipe.data.dataset is None and recipe.data.files == {"train": str(tmp_path / "my.csv")}
    assert recipe.data.max_length == 96 and recipe.hub.license is None and recipe.hub.tags == []


def test_paths_of_a_base_start_at_the_base(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "tables.yaml").write_text(yaml.safe_dump(content(data={"files": {"train": "a.csv"}})))
    (tmp_path / "shared" / "middle.yaml").write_text("base: tables.yaml\n")
    (tmp_path / "mine.yaml").write_text("base: shared/middle.yaml\ndata: {files: {test: b.csv}, text: body}\n")
    recipe = Recipe.from_yaml(tmp_path / "mine.yaml")
    assert recipe.data.files == {"train": str(tmp_path / "shared" / "a.csv"), "test": str(tmp_path / "b.csv")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: none.yaml", "There is no recipe at"),
        ("base: mine.yaml", "leads back to itself"),
        ("base: /etc/passwd", "not the name of a recipe"),
        ("base: shared/base.yaml\nphases: [haed]", "the base has no phase 'haed'; it has head, tune"),
        ("base: shared/base.yaml\nphases: {head: 1}", "phases.head must hold the phase's keys"),
        ("base: shared/base.yaml\nphases: {head: {keep: 2}}", "phases.0.keep"),
    ],
)
def test_a_base_that_cannot_be_followed_is_named(tmp_path: Path, text: str, message: str) -> None:
    based(tmp_path, "")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(tmp_path / "mine.yaml")
    assert message in str(error.value)


PAD = ["pleasure", "arousal", "dominance"]


def own(labels: Any, **model: Any) -> Recipe:
    data = {"files": {"train": "my.csv"}, **({} if labels is None else {"labels": labels})}
    return Recipe.from_dict(content(data=data, model={"encoder": "gpt2", **model}))


@pytest.mark.parametrize(
    ("labels", "model", "columns", "targets"),
    [
        (None, {}, ["V", "A", "D"], PAD),
        (["Valence.mean", "arousal", "dom"], {}, ["Valence.mean", "arousal", "dom"], PAD),
        (["warmth", "urgency", "clarity"], {}, ["warmth", "urgency", "clarity"], ["warmth", "urgency", "clarity"]),
        (["valence", "arousal"], {}, ["valence", "arousal"], ["valence", "arousal"]),
        (None, {"targets": ["valence", "arousal"]}, ["valence", "arousal"], ["valence", "arousal"]),
        (["v", "a"], {"targets": ["valence", "arousal"]}, ["v", "a"], ["valence", "arousal"]),
        ({"warmth": "w", "urgency": "u"}, {}, ["w", "u"], ["warmth", "urgency"]),
        ({"warmth": "w", "urgency": "u"}, {"targets": ["urgency", "warmth"]}, ["u", "w"], ["urgency", "warmth"]),
        ({"dominance": "D", "pleasure": "V", "arousal": "A"}, {}, ["V", "A", "D"], PAD),
    ],
)  # fmt: skip
def test_labels_name_the_targets(labels: Any, model: dict[str, Any], columns: list[str], targets: list[str]) -> None:
    recipe = own(labels, **model)
    assert (recipe.data.labels, recipe.targets) == (columns, targets)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("labels", "model", "message"),
    [
        (["a", "b"], {"targets": ["warmth"]}, "names 2 columns (a, b), but there are 1 targets (warmth)"),
        ({"warmth": "w"}, {"targets": ["cold"]}, "names the targets ['warmth'], but model.targets is ['cold']"),
    ],
)
def test_labels_that_do_not_fit_the_targets_are_refused(labels: Any, model: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        own(labels, **model)
    assert message in str(error.value)


def test_a_table_is_read_by_the_options_of_the_recipe() -> None:
    table = {"separator": ";", "encoding": "cp1252", "decimal": ",", "sheet": "Data", "validation_fraction": 0.2}
    recipe = Recipe.from_dict(content(data={"files": {"train": "my.xlsx"}, **table}))
    assert {name: recipe.to_dict()["data"][name] for name in table} == table
    # A run is known by its recipe: what came later and is left out must not change it.
    assert not set(table) & set(Recipe.from_dict(content()).to_dict()["data"])


def test_the_example_has_every_key_and_can_be_followed(tmp_path: Path) -> None:
    text = example_recipe()
    (tmp_path / "my.yaml").write_text(text)
    recipe = Recipe.from_yaml(tmp_path / "my.yaml")
    assert recipe.data.files == {"train": str(tmp_path / "my.csv")} and recipe.phases[0].training["learning_rate"] > 0
    # Each line that is switched off holds a key that exists, at its default.
    whole = yaml.safe_load(re.sub(r"(?m)^#(?=( {2})*\S)(?! \S)", "", text))
    whole["data"].pop("dataset")
    everything = Recipe.from_dict(whole, folder=tmp_path)
    assert set(whole) == set(Recipe.model_fields) and set(whole["phases"][0]) == set(Phase.model_fields)
    assert everything.hub == recipe.hub and everything.peft == recipe.peft and everything.phases == recipe.phases
    assert isinstance(RecipeError("x"), LiminalError)
