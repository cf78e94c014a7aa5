"""Every route that loads a model gives the same numbers, whatever kind of folder or repository it is pointed at."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config
from hub_rules import Blob
from hub_server import HubServer
from peft import AutoPeftModelForSequenceClassification, PeftModel, get_peft_model
from test_hub import TEXTS, tokenizer
from torch import Tensor
from transformers import AutoModelForSequenceClassification, pipeline

from liminal_hf import LiminalForPADRegression, lora_config
from liminal_hf import cli as command_line
from liminal_hf.modeling import checkpointing
from liminal_hf.modeling.encoders import build_encoder, load_tokenizer
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import Scorer

KINDS = ["head-only", "full"]


def batch() -> dict[str, Tensor]:
    return dict(tokenizer()(TEXTS, padding=True, return_tensors="pt"))


def write_adapter(base: Path | str, folder: Path, seed: int = 0, **settings: Any) -> Tensor:
    """Writes an adapter on a checkpoint; the logits of the tuned model in memory."""
    model = LiminalForPADRegression.from_pretrained(base)
    tuned = get_peft_model(model, lora_config(model, r=4, **settings)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if value.requires_grad:  # stands for a training
                value.add_(torch.randn(value.shape, generator=generator) * (0.3 if "lora_" in name else 0.05))
        logits = tuned(**batch()).logits
    tuned.save_pretrained(folder)
    return logits


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model as a full and as a head-only checkpoint, each with its tokenizer, and the encoder alone."""
    root = tmp_path_factory.mktemp("loading")
    torch.manual_seed(0)
    build_encoder(tiny_config("bert")).save_pretrained(root / "encoder")
    model = LiminalForPADRegression.from_encoder_pretrained(
        root / "encoder", latent_size=16, pooled_layers="mix", max_seq_length=64
    )
    model.save_head_only(root / "head-only")
    model.save_pretrained(root / "full")
    for kind in KINDS:
        tokenizer().save_pretrained(root / kind)
    return {kind: root / kind for kind in (*KINDS, "encoder")}


ROUTES: dict[str, Callable[[Path, Path], torch.nn.Module]] = {
    "AutoModel": lambda adapter, base: AutoModelForSequenceClassification.from_pretrained(adapter),
    "our class": lambda adapter, base: LiminalForPADRegression.from_pretrained(adapter),
    "pipeline": lambda adapter, base: pipeline("pad-regression", model=str(adapter), device="cpu").model,
    "AutoPeft": lambda adapter, base: AutoPeftModelForSequenceClassification.from_pretrained(adapter),
    "PeftModel": lambda adapter, base: PeftModel.from_pretrained(
        LiminalForPADRegression.from_pretrained(base), adapter
    ),
    "command line": lambda adapter, base: command_line.load(str(adapter))[0],
    "load_adapter": lambda adapter, base: _with_adapter(LiminalForPADRegression.from_pretrained(base), adapter),
}


def _with_adapter(model: LiminalForPADRegression, adapter: Path) -> LiminalForPADRegression:
    model.load_adapter(str(adapter))
    return model


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_loaded_by_every_route(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    expected = write_adapter(folders[kind], tmp_path)
    plain = LiminalForPADRegression.from_pretrained(folders[kind])(**batch()).logits
    assert not torch.allclose(expected, plain, atol=1e-2)
    for name, load in ROUTES.items():
        assert torch.equal(load(tmp_path, folders[kind]).eval()(**batch()).logits, expected), name
    model = LiminalForPADRegression.from_pretrained(tmp_path)
    by_name, by_model = (Scorer(source, tokenizer=tokenizer()).score(TEXTS) for source in (tmp_path, model))
    assert by_name.equals(by_model)
    _, report = LiminalForPADRegression.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_by_name(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    expected = {name: write_adapter(folders[kind], tmp_path / name, seed) for seed, name in enumerate(("a", "b"))}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a", adapter_name="a")
    model.load_adapter(str(tmp_path / "b"), adapter_name="b")
    wrapped = PeftModel.from_pretrained(
        LiminalForPADRegression.from_pretrained(folders[kind]), tmp_path / "a", adapter_name="a"
    ).eval()
    wrapped.load_adapter(tmp_path / "b", adapter_name="b")
    for name in ("b", "a"):
        for loaded in (model, wrapped):
            loaded.set_adapter(name)
            assert torch.equal(loaded(**batch()).logits, expected[name])


def test_an_adapter_of_a_model_that_was_never_saved_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_encoder_pretrained(folders["encoder"], latent_size=16)
    get_peft_model(model, lora_config(model)).save_pretrained(tmp_path)
    with pytest.raises(LiminalError, match="does not name the checkpoint"):
        LiminalForPADRegression.from_pretrained(tmp_path)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"dtype": torch.bfloat16},
    {"torch_dtype": "bfloat16"},
    {"dtype": "auto"},
    {"device_map": "cpu"},
    {"device_map": {"liminal.encoder": "cpu", "liminal.pooler": "cpu", "liminal.head": "cpu"}},
    {"attn_implementation": "eager"},
    {"label_range": [-2.0, 2.0]},
    {"output_hidden_states": True},
]


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options) or "none")
@pytest.mark.parametrize("auto", [AutoModelForSequenceClassification, LiminalForPADRegression])
def test_a_head_only_checkpoint_loads_as_a_full_one(folders: dict[str, Path], auto: Any, options: dict) -> None:
    head_only, full = (auto.from_pretrained(folders[kind], **copy.deepcopy(options)) for kind in KINDS)
    expected = {name: (value.dtype, value.device) for name, value in full.named_parameters()}
    assert {name: (value.dtype, value.device) for name, value in head_only.named_parameters()} == expected
    assert head_only.config.weights_format == full.config.weights_format == "full"
    for model in (head_only, full):
        assert model.liminal.encoder.config._attn_implementation == options.get("attn_implementation", "sdpa")
        assert model.config.label_range == options.get("label_range", [-1.0, 1.0])
    one, other = head_only(**batch()), full(**batch())
    assert torch.equal(one.logits, other.logits)
    assert (one.hidden_states is None) == (other.hidden_states is None) == ("output_hidden_states" not in options)


def test_the_report_of_a_head_only_checkpoint(folders: dict[str, Path]) -> None:
    model, report = LiminalForPADRegression.from_pretrained(folders["head-only"], output_loading_info=True)
    assert type(model) is LiminalForPADRegression and not any(report.values())
    with pytest.raises(LiminalError, match="no LIMINAL checkpoint but a 'bert' model"):
        LiminalForPADRegression.from_pretrained(folders["encoder"])


CLIENT = """
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification
from liminal_hf import LiminalForPADRegression
from test_loading import batch
options = OPTIONS
routes = [LiminalForPADRegression, AutoModelForSequenceClassification]
if "token" in options:
    routes.append(AutoPeftModelForSequenceClassification)  # asks the Hub even where it is told not to
for name, auto in [("head", routes[0]), *(("adapter", route) for route in routes)]:
    model = auto.from_pretrained("tester/" + name, **options).eval()
    print(*model(**batch()).logits.flatten().tolist())
fresh = LiminalForPADRegression.from_encoder_pretrained("tester/encoder", "main", encoder_kwargs=options, head="linear")
assert len(fresh.config.encoder_revision) == 40, "a branch is written down as its commit"
"""


@pytest.mark.nightly
def test_the_callers_token_and_cache_reach_a_private_encoder(folders: dict[str, Path], tmp_path: Path) -> None:
    def upload(hub: HubServer, name: str, folder: Path) -> None:
        hub.add_repo(f"tester/{name}", private=True)
        files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        blobs = {path: Blob(content, lfs=False) for path, content in files.items()}
        hub.repos[f"tester/{name}"].commit("main", "all", blobs)

    model = LiminalForPADRegression.from_pretrained(folders["head-only"])
    plain = model(**batch()).logits.flatten().tolist()
    tuned = write_adapter(folders["head-only"], tmp_path / "adapter").flatten().tolist()
    for folder, file, old, new in (
        (tmp_path / "adapter", "adapter_config.json", folders["head-only"], "tester/head"),
        (folders["head-only"], "config.json", folders["encoder"], "tester/encoder"),
    ):
        copied = tmp_path / new.rpartition("/")[2] if file == "config.json" else folder
        copied.mkdir(exist_ok=True)
        for path in folder.iterdir():
            (copied / path.name).write_bytes(path.read_bytes())
        text = (folder / file).read_text().replace(json.dumps(str(old)), json.dumps(new))
        (copied / file).write_text(text)
    with HubServer() as hub:
        upload(hub, "encoder", folders["encoder"])
        upload(hub, "head", tmp_path / "encoder")
        upload(hub, "adapter", tmp_path / "adapter")
        paths = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}\n"
        home, cache = tmp_path / "home", tmp_path / "cache"
        home.mkdir()
        for options in ({"token": "hf_read", "force_download": True}, {"local_files_only": True}):
            code = paths + CLIENT.replace("OPTIONS", repr({**options, "cache_dir": str(cache)}))
            before = len(hub.seen)
            done = hub.run(code, home, token=None)
            assert done.returncode == 0, done.stderr
            rows = [[float(value) for value in line.split()] for line in done.stdout.strip().splitlines()]
            assert rows == [plain] + [tuned] * (len(rows) - 1) and len(rows) >= 3, options
            asked = [request.path for request in hub.seen[before:] if request.path.endswith("model.safetensors")]
            assert bool(asked) != ("local_files_only" in options), asked
        assert not list(home.rglob("*.safetensors"))


# ---- tokenizers ----


def test_a_checkpoint_without_a_tokenizer_says_what_to_type(folders: dict[str, Path], tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_pretrained(folders["head-only"])
    model.save_pretrained(tmp_path)
    said = rf"holds a model and no tokenizer.*AutoTokenizer.from_pretrained\('{folders['encoder']}'\)"
    for read in (load_tokenizer, command_line.load, Scorer):
        with pytest.raises(LiminalError, match=said):
            read(str(tmp_path))
    tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer().get_vocab()
    # A model knows where its tokenizer is; an adapter's is that of its base.
    write_adapter(folders["full"], tmp_path / "adapter")
    for source in (model, tmp_path / "adapter"):
        assert load_tokenizer(source).get_vocab() == tokenizer().get_vocab()
    fresh = LiminalForPADRegression.from_encoder_pretrained(folders["encoder"], latent_size=16)
    with pytest.raises(LiminalError, match="tokenizer of this model is not at hand"):
        load_tokenizer(fresh)


# ---- saving ----


class DiskFull(OSError):
    pass


@pytest.mark.parametrize("how", ["save_head_only", "save_pretrained"])
@pytest.mark.parametrize("moment", ["copy_code", "save_file", "LiminalConfig.save_pretrained"])
def test_a_failing_save_changes_nothing_in_memory(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, moment: str
) -> None:
    model = LiminalForPADRegression.from_pretrained(folders["head-only"])
    model.config.encoder_name_or_path = str(folders["encoder"])
    getattr(model, how)(tmp_path / "saved")
    before = model.config.to_json_string(), vars(model.config).keys()
    files = {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()}
    monkeypatch.setattr(f"{checkpointing.__name__}.{moment}", full_disk)
    if moment == "save_file":
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full_disk)
    with torch.no_grad():
        next(model.liminal.head.parameters()).add_(1)
    with pytest.raises(DiskFull):
        getattr(model, how)(tmp_path / "saved")
    assert (model.config.to_json_string(), vars(model.config).keys()) == before
    if how == "save_head_only":
        assert {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()} == files
    monkeypatch.undo()
    model.save_pretrained(tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["weights_format"] == "full"
    again = LiminalForPADRegression.from_pretrained(tmp_path / "whole")
    assert torch.equal(again(**batch()).logits, model.eval()(**batch()).logits)


def full_disk(*args: Any, **kwargs: Any) -> None:
    raise DiskFull(28, "No space left on device")
