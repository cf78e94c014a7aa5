"""The probe: its cross-validation keeps documents apart, its intervals cover, and the command writes what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from liminal_hf import metrics, probing
from liminal_hf.cli import main
from liminal_hf.figures import plot
from liminal_hf.modeling.errors import LiminalError

GOOD, BAD = ("lovely", "happy", "sunny", "kind"), ("awful", "gloomy", "broken", "cruel")
THINGS = ("letter", "morning", "song", "answer", "garden")


@pytest.fixture(scope="module")
def encoders(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two tiny encoders, of two layers and of three, with MiniLM's tokenizer."""
    folders = []
    for layers in (2, 3):
        torch.manual_seed(layers)
        folder = tmp_path_factory.mktemp("encoder") / f"tiny-{layers}"
        config = BertConfig(hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=37)
        BertModel(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
        folders.append(str(folder))
    return folders


@pytest.fixture
def emobank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small corpus in EmoBank's form: a document per thing."""
    rng = np.random.default_rng(0)
    tables = {
        "emobank.csv": ["id,split,V,A,D,text"],
        "meta.tsv": ["id\tdocument\tcategory\tsubcategory"],
        "reader.csv": ["id,V,A,D,stdV,stdA,stdD,N"],
        "writer.csv": ["id,V,A,D,stdV,stdA,stdD,N"],
    }
    for thing in THINGS:
        for word in (*GOOD, *BAD):
            name, pleasure = f"{thing}_{word}", 4.0 if word in GOOD else 2.0
            v, a, d = pleasure + rng.normal(0, 0.1), 3 + rng.normal(0, 0.2), 3 + rng.normal(0, 0.2)
            tables["emobank.csv"].append(f"{name},train,{v:.2f},{a:.2f},{d:.2f},A {word} {thing}.")
            tables["meta.tsv"].append(f"{name}\t{thing}\tblog\t")
            for side in ("reader.csv", "writer.csv"):
                tables[side].append(f"{name},{v:.2f},{a:.2f},{d:.2f},.5,.5,.5,5")
    for file, lines in tables.items():
        (tmp_path / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setenv("LIMINAL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_the_command_writes_tables_and_figures(
    encoders: list[str], emobank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (emobank / "phrases.txt").write_text("A lovely song.\nA cruel answer.\n", encoding="utf-8")
    stem = emobank / "out" / "probe"
    with pytest.raises(SystemExit) as ended:
        main(["probe", *encoders, "--random-floor", "--phrases", str(emobank / "phrases.txt"), "-o", str(stem)])
    assert ended.value.code == 0
    printed, progress = capsys.readouterr()
    content = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    assert (content["texts"], content["documents"]) == (40, 5) and content["command"].startswith("liminal probe")
    names = [encoders[0], f"{encoders[0]}, random weights", encoders[1], f"{encoders[1]}, random weights"]
    layers = {name: {row["layer"] for row in content["layers"] if row["encoder"] == name} for name in names}
    assert list(layers.values()) == [{0, 1, 2}] * 2 + [{0, 1, 2, 3}] * 2
    assert len(progress.splitlines()) >= 14
    for row in content["layers"]:
        assert -1 <= row["low"] <= row["high"] <= 1 and row["low"] - 0.1 <= row["r"] <= row["high"] + 0.1
    pleasure = {(row["encoder"], row["layer"]): row["r"] for row in content["layers"] if row["dimension"] == "pleasure"}
    # The word alone says it, and other documents have the word; what a document adds to it is noise.
    assert pleasure[encoders[0], 0] > 0.8
    by_name = {(row["encoder"], row["phrase"]): row for row in content["phrases"]}
    assert all(
        by_name[name, "A lovely song."]["pleasure"] > by_name[name, "A cruel answer."]["pleasure"] for name in names
    )
    table = stem.with_suffix(".md").read_text(encoding="utf-8")
    assert printed.startswith(table) and table.count("\n| ") == 15 and table.count("**") == 16
    assert "40 texts of 5 documents, 5 folds by document" in table
    for path in (stem.with_suffix(".png"), stem.with_name("probe_phrases.png")):
        assert path.read_bytes().startswith(b"\x89PNG") and str(path) in printed
    assert plot("probe", stem.with_suffix(".json"), emobank / "again.png").is_file()


def test_poolings_are_compared(encoders: list[str], emobank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["probe", encoders[0], "--pooling", "mean", "--pooling", "last_token"])
    out, _ = capsys.readouterr()
    assert ended.value.code == 0 and f"`liminal probe {encoders[0]} --pooling mean --pooling last_token`" in out
    r = {}
    for name in ("mean", "last_token"):
        lines = [line for line in out.splitlines() if line.startswith(f"| {encoders[0]}, {name} |")]
        r[name] = [float(line.replace("*", "").split("|")[-2]) for line in lines]
    # The last token is the same mark after each text, so its embedding says nothing; the mean has the word.
    assert len(r["mean"]) == len(r["last_token"]) == 3 and r["mean"][0] > r["last_token"][0] + 0.1
    with pytest.raises(LiminalError, match="attention is learned"):
        probing.probe(encoders[:1], pooling=["attention"])
    with pytest.raises(LiminalError, match="mean_after_first"):
        probing.probe(encoders[:1], pooling=["means"])


def test_no_text_of_a_document_is_known_when_it_is_predicted() -> None:
    """Labels that are constant within each document and random between: what was seen of it would give them away."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    # Each document has a direction of its own, which tells it apart.
    states = rng.normal(size=(40, 60))[groups] + 0.1 * rng.normal(size=(400, 60))
    gold = rng.normal(size=(40, 3))[groups]
    held_out = probing._cross_validated(states, gold, groups)
    assert np.abs(metrics.pearson(held_out, gold)).max() < 0.45
    known = probing._ridge().fit(states, gold).predict(states)
    assert metrics.pearson(known, gold).min() > 0.9


def test_the_interval_draws_documents() -> None:
    """Of 100 samples, intervals by document cover the true r in about 95; those by sentence in far fewer."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    covered = np.zeros(2)
    for _ in range(100):
        shared = rng.normal(size=(2, 40))[:, groups]
        own = rng.normal(size=(2, 400))
        gold = shared[0] + 0.3 * own[0]
        predicted = gold + shared[1] + 0.3 * own[1]
        for place, drawn in enumerate((groups, np.arange(400))):
            low, high = probing.document_interval(predicted[:, None], gold[:, None], drawn, resamples=200)
            covered[place] += low[0] < np.sqrt(0.5) < high[0]
    assert covered[0] >= 86 and covered[1] < 65


def test_a_constant_has_no_r() -> None:
    low, high = probing.document_interval(np.zeros((20, 1)), np.arange(20.0)[:, None], np.arange(20) // 2)
    assert (low[0], high[0]) == (0, 0)


def test_what_cannot_be_probed_gets_a_sentence(encoders: list[str]) -> None:
    with pytest.raises(ValueError, match="Give each encoder once"):
        probing.probe([encoders[0], encoders[0]])
    with pytest.raises(ValueError, match="texts of at least 5 documents, got 2"):
        probing.probe(encoders, texts=["a", "b"], labels=np.zeros((2, 3)), documents=["x", "y"])
    with pytest.raises(OSError):
        probing.probe(["owner/missing"], texts=["a"] * 5, labels=np.zeros((5, 3)), documents=list("abcde"))


def test_figures_of_the_committed_table_are_those_of_its_numbers() -> None:
    path = Path(__file__).parents[1] / "scripts" / "results" / "probe.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    about = {name: value for name, value in content.items() if name not in ("layers", "phrases")}
    result = probing.Probe(content["layers"], content["phrases"], about)
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    assert page.partition("<!-- table -->")[2].partition("<!-- end -->")[0].strip() == result.markdown().strip()
