"""What a stranger does with a pushed model, over the loopback Hub, with the real client in processes of its own."""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import tiny_model
from hub_server import HubServer
from transformers import BertTokenizerFast

from liminal_hf.export.checkpoint import Checkpoint
from liminal_hf.export.hub import verify_weights
from liminal_hf.export.model_card import REQUIREMENT
from liminal_hf.export.repository import local_paths, write_repository
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.modeling.pipeline_liminal import OCTANTS

ROOT = Path(__file__).parent.parent
REPO = "tester/tiny"
TEXTS = ["a lovely day", "they never listened to us"]
CODE = {path.name for path in (ROOT / "liminal_hf" / "modeling").glob("*.py")} - {"__init__.py"}
# One of us, and a stranger in whose process the package cannot be imported.
OURS = f"""import sys, json; sys.path.insert(0, {str(ROOT)!r})
import torch
from pathlib import Path
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from liminal_hf import DEFAULT_CHECKPOINT, LiminalForPADRegression, push
from liminal_hf.export.hub import PushError
from liminal_hf.export.model_card import run_facts
"""
STRANGER = "import sys, json; sys.modules['liminal_hf'] = None\nimport torch\n"
STRANGER += (
    "from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline\n"
)
PREDICT = f"""
def predict(model, tokenizer):
    with torch.no_grad():
        return model(**tokenizer({TEXTS!r}, padding=True, return_tensors='pt')).logits.double().tolist()
"""


def tokenizer() -> BertTokenizerFast:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}, model_max_length=64)


def run(hub: HubServer, home: Path, code: str, token: str | None = "hf_write") -> str:
    """What the process prints last; the test fails with its traceback if it fails."""
    done = hub.run(code, home, token)
    assert done.returncode == 0, done.stderr
    assert "Do you wish to run" not in done.stdout  # transformers' question about code from a repository
    return done.stdout.strip().rpartition("\n")[-1]


def logits(model: LiminalForPADRegression) -> list[list[float]]:
    with torch.no_grad():
        return model(**tokenizer()(TEXTS, padding=True, return_tensors="pt")).logits.double().tolist()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder as `fit` leaves it, with everything beside the model that has to stay home."""
    run_folder = tmp_path_factory.mktemp("run")
    folder = run_folder / "model"
    tiny_model("bert", max_seq_length=64).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (run_folder / "metrics.json").write_text(json.dumps({"test": {"pearson_pleasure": 0.5}, "rows": {"test": 10}}))
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump({"data": {"dataset": "emobank"}, "phases": []}))
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "trainer_state.json", "notes.pkl"):
        (folder / name).write_bytes(b"stays home")
    return run_folder


@pytest.fixture(scope="module")
def pushed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubServer, dict[str, Any]]]:
    """A Hub to which the checkpoint was pushed, and what `push` returned."""
    with HubServer() as server:
        code = f"result = push({str(checkpoint)!r}, {REPO!r}, handler=True)\nprint(json.dumps(vars(result)))"
        yield server, json.loads(run(server, tmp_path_factory.mktemp("home"), OURS + code))


def test_what_travels(pushed: tuple[HubServer, dict[str, Any]], checkpoint: Path) -> None:
    hub, result = pushed
    files = hub.files(REPO)
    assert result["verified"] is True and result["commit"] == hub.repos[REPO].branches["main"]
    assert sorted(files) == sorted([*result["files"], ".gitattributes"])
    tokens = {"tokenizer.json", "tokenizer_config.json"}
    assert set(result["files"]) == CODE | tokens | {
        "README.md", "config.json", "handler.py", "model.safetensors", "provenance.json", "requirements.txt"
    }  # fmt: skip
    # The only large object is the weights, and it is the very file.
    assert files["model.safetensors"] == (checkpoint / "model" / "model.safetensors").read_bytes()
    config = json.loads(files["config.json"])
    assert sorted(config["auto_map"]) == ["AutoConfig", "AutoModel", "AutoModelForSequenceClassification"]
    assert config["custom_pipelines"]["pad-regression"]["impl"] == "pipeline_liminal.PADRegressionPipeline"
    metadata = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert metadata["weights_sha256"] == {"model.safetensors": hashlib.sha256(files["model.safetensors"]).hexdigest()}
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5


def test_no_path_of_this_machine_travels(pushed: tuple[HubServer, dict[str, Any]], tmp_path: Path) -> None:
    hub, _ = pushed
    for name, content in hub.files(REPO).items():
        (tmp_path / name).write_bytes(content)
    assert local_paths(tmp_path, [str(ROOT), str(Path.home()) + "/", str(tmp_path.parent)]) == []


@pytest.fixture(scope="module")
def stranger(pushed: tuple[HubServer, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What somebody without the package and without a token gets, in one process: the model, the card, the handler."""
    hub, result = pushed
    blocks = hub.files(REPO)["README.md"].decode().split("```python\n")[1:]
    assert len(blocks) == 2
    card = "\n".join(block.split("```")[0] for block in blocks)
    assert REPO in card
    code = f"""
model = AutoModelForSequenceClassification.from_pretrained({REPO!r}, trust_remote_code=True).eval()
base = AutoModel.from_pretrained({REPO!r}, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained({REPO!r}, trust_remote_code=True)
batch = tokenizer({TEXTS!r}, padding=True, return_tensors='pt')
with torch.no_grad():
    trajectory = base(**batch).pad_trajectory[:, -1].double().tolist()
config = AutoConfig.from_pretrained({REPO!r}, trust_remote_code=True, revision={result["commit"]!r})
rows = pipeline('pad-regression', model={REPO!r}, trust_remote_code=True)({TEXTS!r})
pasted = {{}}
exec({card!r}, pasted)
from huggingface_hub import snapshot_download
folder = snapshot_download({REPO!r})
sys.path.insert(0, folder)
from handler import EndpointHandler
handler = EndpointHandler(folder)
one, many = handler({{'inputs': 'a day'}}), handler({{'inputs': {TEXTS!r}, 'parameters': {{'num_outer_steps': 2}}}})
try:
    handler({{}})
except ValueError as error:
    refused = str(error)
print(json.dumps(dict(
    predicted=predict(model, tokenizer), trajectory=trajectory, module=type(config).__module__, rows=rows,
    card=list(pasted['output'].logits.shape), handler=[len(one), len(many), sorted(one[0]), refused],
)))
"""
    found: dict[str, Any] = json.loads(run(hub, tmp_path_factory.mktemp("home"), STRANGER + PREDICT + code, token=None))
    return found


def test_a_stranger_loads_it(stranger: dict[str, Any], checkpoint: Path) -> None:
    predicted = stranger["predicted"]
    expected = logits(LiminalForPADRegression.from_pretrained(checkpoint / "model").eval())
    assert predicted == stranger["trajectory"] == expected
    assert stranger["module"].startswith("transformers_modules.")
    low, high = -1.0, 1.0
    for row, values in zip(stranger["rows"], predicted, strict=True):
        for dimension, value in zip(("pleasure", "arousal", "dominance"), values, strict=True):
            assert row[dimension] == pytest.approx(min(max(value, low), high), abs=1e-6)


def test_the_card_runs_when_pasted(stranger: dict[str, Any]) -> None:
    assert stranger["card"] == [2, 3]


def test_the_handler_answers(pushed: tuple[HubServer, dict[str, Any]], stranger: dict[str, Any]) -> None:
    hub, _ = pushed
    one, many, keys, error = stranger["handler"]
    assert (one, many) == (1, 2) and keys[:3] == ["arousal", "confidence", "dominance"] and "inputs" in error
    assert hub.files(REPO)["requirements.txt"].decode().strip() == REQUIREMENT
    assert f'"{REQUIREMENT}"' in (ROOT / "pyproject.toml").read_text()


def test_a_second_push_uploads_what_has_changed(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    code = f"""
first = push({str(checkpoint)!r}, {REPO!r}, verify=False)
again = push({str(checkpoint)!r}, {REPO!r}, verify=False)
model = LiminalForPADRegression.from_pretrained({str(checkpoint / "model")!r})
model.config.deep_supervision = 0.25
tokenizer = AutoTokenizer.from_pretrained({str(checkpoint / "model")!r})
facts = run_facts({str(checkpoint)!r})
changed = push(model, {REPO!r}, tokenizer=tokenizer, facts=facts, verify=False, commit_message='Change one field')
branch = push({str(checkpoint)!r}, 'tester/branched', revision='try', verify=False)
print(json.dumps([first.commit, again.commit, changed.commit, branch.commit]))
"""
    first, again, changed, branch = json.loads(run(hub, tmp_path, OURS + code))
    assert first == again
    assert hub.repos["tester/branched"].branches["try"] == branch
    assert list(hub.files("tester/branched")) == [".gitattributes"], "the main branch is left alone"
    repo = hub.repos[REPO]
    assert repo.commits[changed].parent == first and repo.commits[changed].title == "Change one field"
    before, after = hub.files(REPO, first), hub.files(REPO, changed)
    assert {name for name in after if before.get(name) != after[name]} == {"config.json"} and set(before) == set(after)
    (body,) = [r.received for r in hub.seen if r.path.endswith(f"{REPO}/commit/main")][1:]
    assert body < 2 * len(after["config.json"]) + 500  # the commit held this file alone, in base64
    assert len(hub.uploads()) == 2, "the weights once to each of the two repositories"


def test_shards_of_an_earlier_upload_go_away(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    code = f"""
model = LiminalForPADRegression.from_pretrained({str(checkpoint / "model")!r})
model.push_to_hub({REPO!r}, max_shard_size='40KB')
push({str(checkpoint)!r}, {REPO!r}, verify=False)
"""
    run(hub, tmp_path, OURS + code)
    weights = [sorted(n for n in c.files if ".safetensors" in n) for c in hub.repos[REPO].commits.values()]
    assert len(weights[1]) > 2 and weights[2] == ["model.safetensors"]


def test_model_push_to_hub(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    """One line uploads what `push` uploads: the card of the run, the tokenizer; a stranger loads it."""
    code = f"""
model = LiminalForPADRegression.from_pretrained({str(checkpoint / "model")!r})
model.push_to_hub({REPO!r}, private=True)
"""
    run(hub, tmp_path, OURS + code)
    files = hub.files(REPO)
    assert set(files) == CODE | {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "provenance.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert sorted(json.loads(files["config.json"])["auto_map"]) == [
        "AutoConfig", "AutoModel", "AutoModelForSequenceClassification",
    ]  # fmt: skip
    card = files["README.md"].decode()
    assert "generated" not in card and f'pipeline("pad-regression", model="{REPO}"' in card
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["weights_sha256"] == {"model.safetensors": hashlib.sha256(files["model.safetensors"]).hexdigest()}
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5
    code = f"""
model = AutoModelForSequenceClassification.from_pretrained({REPO!r}, trust_remote_code=True).eval()
print(json.dumps(predict(model, AutoTokenizer.from_pretrained({REPO!r}, trust_remote_code=True))))
"""
    expected = logits(LiminalForPADRegression.from_pretrained(checkpoint / "model").eval())
    assert json.loads(run(hub, tmp_path, STRANGER + PREDICT + code)) == expected
    # Trained further, the figures of that run are not its own any more; a tokenizer and words of the owner's stay.
    code = f"""
from huggingface_hub import HfApi
tokenizer = AutoTokenizer.from_pretrained({REPO!r}, trust_remote_code=True)
tokenizer.add_tokens(['newword'])
tokenizer.push_to_hub({REPO!r})
model = LiminalForPADRegression.from_pretrained({str(checkpoint / "model")!r})
with torch.no_grad():
    next(model.liminal.head.parameters()).add_(1)
model.push_to_hub({REPO!r})
HfApi().upload_file(path_or_fileobj=b'---\\nlicense: mit\\n---\\nMine.', path_in_repo='README.md', repo_id={REPO!r})
model.push_to_hub({REPO!r})
try:
    AutoConfig.from_pretrained({REPO!r}, token=False, cache_dir='elsewhere')
except OSError as error:
    print(json.dumps(str(error)))
"""
    refused = json.loads(run(hub, tmp_path, OURS + "from transformers import AutoConfig\n" + code))
    # The last push changes nothing, so it makes no commit.
    cards = [commit.files["README.md"].content.decode() for commit in list(hub.repos[REPO].commits.values())[-2:]]
    assert "weights_sha256" in cards[0] and "model-index" not in cards[0]
    assert cards[1] == "---\nlicense: mit\n---\nMine."
    assert "newword" in hub.files(REPO)["tokenizer.json"].decode()
    # Private: without a token it is as if it were not there.
    assert "is not a valid model identifier" in refused


def told(hub: HubServer, home: Path, calls: list[str], token: str | None) -> list[str]:
    """Type and message of the error that each call raises."""
    code = f"""
for call in {calls!r}:
    try:
        exec(call)
    except Exception as error:
        print(json.dumps(f"{{type(error).__name__}}: {{error}}"), end=",")
"""
    done = hub.run(OURS + code, home, token)
    assert done.returncode == 0, done.stderr
    return json.loads(f"[{done.stdout.strip().rpartition(chr(10))[-1].rstrip(',')}]")


def test_what_the_user_is_told(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    place = str(checkpoint)
    calls = [
        f"push({place!r}, {REPO!r}, token='hf_wrong')",
        f"push({place!r}, {REPO!r})",
        f"push({place!r}, {REPO!r}, token='hf_read')",
        f"push({place!r}, 'another/tiny', token='hf_write')",
        f"push({place!r}, 'a/b/c', token='hf_write')",
        f"push({place + '/none'!r}, {REPO!r}, token='hf_write')",
        f"push(3, {REPO!r}, token='hf_write')",
        "LiminalForPADRegression.from_pretrained('tester/none')",
    ]
    wrong, absent, reader, namespace, name, missing, wrong_type, missing_repo = told(hub, tmp_path, calls, token=None)
    assert wrong.startswith("PushError: The Hub does not accept the token. Log in with `hf auth login`")
    assert absent.startswith("PushError: The Hub does not accept the token.")
    assert reader.startswith(f"PushError: This token may not write to {REPO}")
    assert namespace.startswith("PushError: This token may not write to another/tiny")
    assert name.startswith("HFValidationError: Repo id must be in the form")
    assert missing.startswith("FileNotFoundError: There is no checkpoint")
    assert "takes a checkpoint or a LiminalForPADRegression, got int" in wrong_type
    assert "tester/none" in missing_repo and missing_repo.startswith("OSError")
    assert hub.repos == {}


@pytest.mark.nightly
def test_a_dropped_connection(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    hub.drops |= {"upload": 1, "commit": 1}  # the client repeats an upload, not a commit
    (dropped,) = told(hub, tmp_path, [f"push({str(checkpoint)!r}, {REPO!r})"], token="hf_write")
    assert dropped.startswith("PushError: The connection to") and "Push again" in dropped
    assert list(hub.files(REPO)) == [".gitattributes"]
    run(hub, tmp_path, OURS + f"push({str(checkpoint)!r}, {REPO!r}, verify=False)")
    assert len(hub.uploads()) == 1 and "model.safetensors" in hub.files(REPO)


@pytest.mark.nightly
def test_a_reload_that_differs_is_noticed(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    code = f"""
model = LiminalForPADRegression.from_pretrained({str(checkpoint / "model")!r})
tokenizer = AutoTokenizer.from_pretrained({str(checkpoint / "model")!r})
def shift(module, arguments, output):
    output.logits = output.logits + 1e-6
    return output
model.register_forward_hook(shift)  # no file holds a hook
try:
    push(model, {REPO!r}, tokenizer=tokenizer)
except PushError as error:
    print(error)
"""
    assert "predicts something else" in run(hub, tmp_path, OURS + code)


@pytest.mark.nightly
def test_trainer_push_to_hub(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    """A frozen encoder is not in the checkpoints, but every commit holds the whole model, and none a pickle."""
    code = f"""
from datasets import Dataset
from transformers import TrainingArguments
from liminal_hf.training.trainer import LiminalTrainer
tokenizer = AutoTokenizer.from_pretrained({str(checkpoint / "model")!r})
model = LiminalForPADRegression.from_pretrained({str(checkpoint / "model")!r})
model.freeze_encoder()
rows = [dict(tokenizer(text), labels=[0.5, 0.0, -0.5]) for text in {TEXTS!r}]
arguments = TrainingArguments(
    'out', num_train_epochs=2, save_strategy='epoch', push_to_hub=True, hub_model_id={REPO!r}, learning_rate=0.01,
    report_to='none', use_cpu=True, eval_strategy='epoch', seed=7,
)
data = Dataset.from_list(rows)
trainer = LiminalTrainer(model, arguments, train_dataset=data, eval_dataset=data, processing_class=tokenizer)
trainer.train()
(Path('out') / 'runs').mkdir()
(Path('out') / 'runs' / 'events.out.tfevents.1.myhost').write_bytes(b'x')
trainer.push_to_hub(license='mit', tags='mine')
model.eval()
with torch.no_grad():
    print(json.dumps(model(**tokenizer({TEXTS!r}, padding=True, return_tensors='pt')).logits.double().tolist()))
"""
    trained = json.loads(run(hub, tmp_path, OURS + code))
    commits = list(hub.repos[REPO].commits.values())[1:]
    assert [commit.title for commit in commits[:2]] == [f"Training in progress, step {step}" for step in (1, 2)]
    size = (checkpoint / "model" / "model.safetensors").stat().st_size
    for commit in commits:
        assert CODE | {"README.md", "config.json", "tokenizer.json"} <= set(commit.files)
        assert [n for n, blob in commit.files.items() if blob.lfs] == ["model.safetensors"]
        assert not [n for n in commit.files if n.endswith((".bin", ".pt", ".pth", ".pkl")) or "checkpoint-" in n]
        assert len(commit.files["model.safetensors"].content) == size
        assert not [n for n in commit.files if "tfevents" in n]
        card = commit.files["README.md"].content.decode()
        weights = hashlib.sha256(commit.files["model.safetensors"].content).hexdigest()
        assert yaml.safe_load(card.split("---\n")[1])["weights_sha256"]["model.safetensors"] == weights
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "mit" and "mine" in metadata["tags"] and "| Seeds | 7 |" in card
    assert metadata["model-index"][0]["results"][0]["dataset"]["split"] == "validation"
    assert (
        "- data of the publisher; rows: train 2, validation 2\n" in card
        and "own data, validation split (2 texts)" in card
    )
    # The base is the run that the model was loaded from, however often the training has pushed.
    facts = json.loads(commit.files["provenance.json"].content)
    assert facts["base"]["metrics"]["test"] == {"pearson_pleasure": 0.5} and "base" not in facts["base"]
    code = f"""
model = AutoModelForSequenceClassification.from_pretrained({REPO!r}, trust_remote_code=True).eval()
print(json.dumps(predict(model, AutoTokenizer.from_pretrained({REPO!r}, trust_remote_code=True))))
"""
    assert json.loads(run(hub, tmp_path, STRANGER + PREDICT + code)) == trained


def test_minilm(hub: HubServer, minilm: Path, tmp_path: Path) -> None:
    """The real encoder: in full, and as a head that fetches it."""
    name = "sentence-transformers/all-MiniLM-L6-v2"
    code = f"""
model = LiminalForPADRegression.from_encoder_pretrained({name!r}, pooled_layers='all')
with torch.no_grad():
    for parameter in model.liminal.head.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
push(model, 'tester/full', verify=False)
print(push(model, 'tester/head', head_only=True).verified)
"""
    assert run(hub, tmp_path, OURS + code) == "True"
    full, head = hub.files("tester/full"), hub.files("tester/head")
    assert len(full["model.safetensors"]) > 80_000_000 > 5_000_000 > len(head["model.safetensors"])
    for card in (full["README.md"].decode(), head["README.md"].decode()):
        metadata = yaml.safe_load(card.split("---\n")[1])
        assert metadata["base_model"] == name
        assert "| Encoder licence | apache-2.0 |" in card


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_the_section_of_the_readme(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    """Every block of "On the Hub", line by line, names filled in: ours with the package, a stranger's without."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## On the Hub")[1].split("\n## ")[0]
    blocks = re.findall(r"```(bash|python)\n(.*?)```", section, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["bash", "python", "python"]
    filled = {"CHECKPOINT": str(checkpoint), "OWNER/NAME": "tester/readme"}
    said = []
    for kind, block in blocks:
        for name, value in filled.items():
            block = block.replace(name, value)
        if kind == "bash":
            code = "from liminal_hf.cli import app\n"
            for line in block.strip().splitlines():
                code += f"app({shlex.split(line, comments=True)[1:]!r}, standalone_mode=False)\n"
            done = hub.run(OURS + code, tmp_path, timeout=280)
            assert done.returncode == 0, done.stderr
            said += done.stdout.strip().splitlines()[-2:]
            filled["COMMIT"] = hub.repos["tester/readme"].branches["main"]
        elif "import liminal_hf" in block or "from liminal_hf" in block:
            run(hub, tmp_path, OURS + block)
        else:
            # From a stranger's own cache.
            (tmp_path / "stranger").mkdir()
            said.append(run(hub, tmp_path / "stranger", STRANGER + block, token=None))
    pushed, verified, octant = said
    commit = filled["COMMIT"]
    assert pushed.strip().endswith(f"/tester/readme/commit/{commit}") and "as the card says" in verified
    assert octant in {*OCTANTS.values(), "neutral"}
    first, copied = hub.files("tester/readme"), hub.files("tester/readme-copy")
    assert set(first) - set(copied) == {"handler.py", "requirements.txt"} and set(copied) <= set(first)
    assert first["model.safetensors"] == copied["model.safetensors"]


def test_weights_are_compared_with_the_card(checkpoint: Path, tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_pretrained(checkpoint / "model")
    write_repository(Checkpoint(model, tokenizer()), tmp_path / "good")
    (digest,) = verify_weights(tmp_path / "good").values()
    assert digest == hashlib.sha256((tmp_path / "good" / "model.safetensors").read_bytes()).hexdigest()
    weights = tmp_path / "good" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    for place in (len(content) // 2, len(content) - 1):
        content[place] ^= 1
        weights.write_bytes(content)
        # It loads all the same, which is why there is a check.
        LiminalForPADRegression.from_pretrained(tmp_path / "good")
        with pytest.raises(ValueError, match=r"model\.safetensors has the sha256 .* card says"):
            verify_weights(tmp_path / "good")
        content[place] ^= 1
    weights.write_bytes(content)
    verify_weights(tmp_path / "good")
    (tmp_path / "good" / "model-2.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="card names"):
        verify_weights(tmp_path / "good")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="card names"):
        verify_weights(tmp_path / "good")
    with pytest.raises(ValueError, match="no card with the sha256"):
        verify_weights(checkpoint / "model")
    with pytest.raises(FileNotFoundError, match="no folder"):
        verify_weights(tmp_path / "nothing")
