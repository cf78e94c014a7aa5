"""Damaged, foreign and hostile checkpoints and recipes; threads and forks: a named error, or the same numbers."""

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, TrainingArguments, pipeline

import liminal_hf
from liminal_hf import LiminalConfig, LiminalForPADRegression
from liminal_hf.export.checkpoint import Checkpoint
from liminal_hf.export.hub import verify_weights
from liminal_hf.export.repository import write_repository
from liminal_hf.training.callbacks import MANIFEST, is_whole
from liminal_hf.training.trainer import LiminalTrainer

PACKAGE = Path(liminal_hf.__file__).parent
TEXTS = [
    "What a lovely surprise!",
    "Go away.",
    "The report has forty pages.",
    "Nobody came, although I had called.",
] * 3


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole repository of a tiny model, with its card."""
    folder = tmp_path_factory.mktemp("good") / "model"
    write_repository(Checkpoint(tiny_model("bert")), folder)
    return folder


@pytest.fixture
def broken(good: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(good, tmp_path / "broken"))


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# ---- weights ----


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_flipped_bit_is_an_error_or_found_on_request(data: st.DataObject, good: Path, tmp_path_factory: Any) -> None:
    folder = Path(shutil.copytree(good, tmp_path_factory.mktemp("flip") / "model"))
    content = bytearray((good / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.one_of(st.integers(0, 7), st.integers(8, header - 1), st.integers(header, len(content) - 1)))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"has the sha256 .* card says"):
        verify_weights(folder)
    try:
        LiminalForPADRegression.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError) as error:
        # The shape of a tensor may have changed, which transformers names.
        assert any(word in str(error) for word in ("cut short or damaged", "size mismatch", "ignore_mismatched_sizes"))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_weights_cut_short_are_named(share: float, broken: Path) -> None:
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[: int(len(content) * share)])
    for load in (LiminalForPADRegression, AutoModelForSequenceClassification):
        with pytest.raises(OSError, match=r"cut short or damaged.*liminal verify") as caught:
            load.from_pretrained(broken)
        assert str(broken) in str(caught.value)


def test_a_tensor_of_another_shape_is_named(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    weights["liminal.head.pad_head.0.weight"] = torch.zeros(3, 3)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="mismatch"):
        LiminalForPADRegression.from_pretrained(broken)


def test_a_head_without_its_encoder_from_elsewhere_names_no_path(tmp_path: Path, monkeypatch: Any) -> None:
    """A config on the Hub may not make us read a folder of this machine."""
    from liminal_hf.modeling import checkpointing

    for name in ("/etc", "../../somewhere", "C:\\models"):
        config = LiminalConfig(encoder_name_or_path=name, weights_format="head_only")
        with pytest.raises(ValueError, match="is a path of this machine"):
            checkpointing._with_encoder({}, "owner/name", config, {})


# ---- configs ----


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"head": "v9"}, KeyError, "v9.*v7"),
        ({"loss": "nothing"}, KeyError, "nothing.*mse"),
        ({"pooling": "eval"}, KeyError, "eval.*mean"),
        ({"config_version": 99}, ValueError, "config version 99.*pip install -U liminal_hf"),
        ({"pooled_layer": "all"}, ValueError, r"no field 'pooled_layer'. Did you mean 'pooled_layers'\?"),
        ({"latent_size": 10**9}, ValueError, "latent_size must be a whole number"),
        ({"num_outer_steps": 10**9}, ValueError, "num_outer_steps must be a whole number"),
        ({"memory_slots": -1}, ValueError, "memory_slots must be a whole number"),
        ({"memory_slots": 65_536, "latent_size": 16_384}, ValueError, "sizes of the memory ask for 1.1e"),
        ({"text_config": {"model_type": "bert", "num_hidden_layers": 10**7}}, ValueError, "num_hidden_layers must be"),
        ({"text_config": {"model_type": "bert", "vocab_size": 10**12}}, ValueError, "vocab_size must be"),
        (
            {"text_config": {"model_type": "bert", "hidden_size": 120_000, "num_hidden_layers": 1000}},
            ValueError,
            "sizes of the text_config ask for",
        ),
        ({"text_config": {"model_type": "unheard-of"}}, ValueError, "unheard-of"),
        ({"label_std": [1, 0, 1]}, ValueError, "above 0 for every target"),
        ({"label_mean": [0, 0]}, ValueError, "a list of finite numbers, one per target"),
    ],
)
def test_a_config_that_cannot_be_followed_is_named(fields: Any, error: type, message: str, broken: Path) -> None:
    change_config(broken, **fields)
    with pytest.raises(error, match=message):
        LiminalForPADRegression.from_pretrained(broken)


def test_a_config_cut_short_is_named(broken: Path) -> None:
    text = (broken / "config.json").read_text()
    (broken / "config.json").write_text(text[: len(text) // 2])
    with pytest.raises(OSError, match="config"):
        AutoConfig.from_pretrained(broken)


# Says what a process that reads a checkpoint and a recipe has opened, asked of the network, and started.
WATCHED = """
import json, sys
folder, recipe = sys.argv[1:]
import torch, transformers, liminal_hf, liminal_hf.training.recipe as recipes
from transformers import AutoModelForSequenceClassification, AutoTokenizer
AutoModelForSequenceClassification.from_pretrained(folder)  # whatever is loaded lazily is loaded now
seen = []
def watch(event, arguments):
    if event == "open" or event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")):
        seen.append([event, str(arguments[0]) if arguments else ""])
sys.addaudithook(watch)
AutoModelForSequenceClassification.from_pretrained(folder)
try:
    recipes.Recipe.from_yaml(recipe)
    print("read")
except recipes.RecipeError as error:
    print("refused")
print(json.dumps(seen))
"""


def test_a_config_and_a_recipe_open_only_their_own_files(broken: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (broken / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Model: ...\n")
    change_config(
        broken,
        auto_map={"AutoConfig": "evil.Model", "AutoModelForSequenceClassification": "evil.Model"},
        custom_pipelines={"pad-regression": {"impl": "evil.Model", "pt": ["AutoModel"], "type": "text"}},
        encoder_name_or_path=str(tmp_path / "secret"),
        plugins={"head": f"evil @ {tmp_path}"},
        tokenizer_class="evil.Model",
        _name_or_path="http://127.0.0.1:9/evil",
    )
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_text("{}")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {encoder: somebody/encoder}\\n"
        "data: {files: {train: ../../secret/table.csv}}\\n"
        "phases: [{name: one, training: {optim_args: '!!python/object/apply:os.system [ls]'}}]\\n".replace("\\n", "\n")
    )
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(broken), str(recipe)],
        env={**os.environ, "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    verdict, seen = done.stdout.strip().splitlines()[-2:]
    assert verdict == "read" and not canary.exists()
    opened = [place for event, place in json.loads(seen) if event == "open"]
    assert [event for event, _ in json.loads(seen) if event != "open"] == []
    ours = [place for place in opened if place.startswith(str(tmp_path))]
    assert ours and all(place == str(recipe) or Path(place).parent == broken for place in ours), ours
    assert not [place for place in ours if place.endswith(".py")]
    foreign = [p for p in opened if not p.startswith((str(tmp_path), str(PACKAGE.parent), sys.prefix, sys.base_prefix))]
    assert not [place for place in foreign if not place.isdigit() and not place.startswith(("/proc/", "/sys/"))], (
        foreign
    )


def test_nobody_elses_code_runs_without_the_users_word() -> None:
    """`trust_remote_code=True` stands only where our own upload is reloaded, and in the endpoint's own repository."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is True, path
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found <= {"export/reload.py", "export/handler.py"}
    assert "revision=" in (PACKAGE.parent / "README.md").read_text(encoding="utf-8").split("## On the Hub")[1]


# ---- the Trainer's own state ----


class Malicious:
    """What a pickle can do: it calls a function when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_is_not_run(name: str, tmp_path: Path) -> None:
    data = Dataset.from_dict({"pooled_embeds": [[0.1] * 8] * 4, "labels": [[0.1, 0.0, -0.1]] * 4})

    def trainer() -> LiminalTrainer:
        torch.manual_seed(0)
        model = LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16))
        arguments = TrainingArguments(
            str(tmp_path / "run"), max_steps=4, save_steps=2, report_to="none", use_cpu=True, disable_tqdm=True
        )
        return LiminalTrainer(model, arguments, train_dataset=data)

    trainer().train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert (checkpoint / name).is_file() and not list(tmp_path.rglob("training_args.bin"))
    with (checkpoint / name).open("wb") as file:
        pickle.dump(Malicious(tmp_path / "ran"), file)
    assert not is_whole(checkpoint)
    # Even if the list of checksums was forged too.
    digest = liminal_hf.modeling.encoders.file_sha256(checkpoint / name)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(json.dumps({**manifest, name: digest}))
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights"):
        trainer().train(resume_from_checkpoint=str(checkpoint))
    assert not (tmp_path / "ran").exists()


# ---- threads and processes ----


def numbers(rows: list[dict[str, Any]]) -> list[list[float]]:
    return [[row[name] for name in liminal_hf.DIMENSIONS] for row in rows]


def test_threads_change_nothing(minilm: Path) -> None:
    pad: Any = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = torch.tensor(numbers(pad(TEXTS, batch_size=4)))
        torch.set_num_threads(2)
        two = torch.tensor(numbers(pad(TEXTS, batch_size=4)))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)
    # Two threads with one model, the one reading conversations while the other reads texts.
    found: dict[str, list[Any]] = {}
    chat = [{"role": role, "content": text} for role, text in zip(["a", "b"] * 6, TEXTS, strict=True)]
    alone = {"texts": numbers(pad(TEXTS, batch_size=4)), "chat": numbers(pad(chat))}

    def read(name: str, inputs: Any) -> None:
        found[name] = [numbers(pad(inputs, batch_size=4)) for _ in range(3)]

    threads = [threading.Thread(target=read, args=item) for item in (("texts", TEXTS), ("chat", chat))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [rows] * 3 for name, rows in alone.items()}


FORKED = """
import multiprocessing, sys, torch, liminal_hf
from transformers import pipeline
torch.set_num_threads(2)
pad = pipeline("pad-regression", model=sys.argv[1])
texts = sys.argv[2:]
expected = pad(texts)
def work(place):
    return pad(texts[place:])[0]
with multiprocessing.get_context("fork").Pool(2) as pool:
    rows = pool.map(work, range(len(texts)))
print(max(abs(a[name] - b[name]) for a, b in zip(rows, expected) for name in ("pleasure", "arousal", "dominance")))
"""


def test_forked_workers_share_a_model(minilm: Path) -> None:
    """The parent has computed with two threads before it forks, which is what makes some libraries hang."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, liminal_hf.DEFAULT_CHECKPOINT, *TEXTS[:4]],
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout.strip().splitlines()[-1]) <= 1e-6
