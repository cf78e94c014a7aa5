"""`liminal benchmark`: any reader, the same texts, the numbers of `liminal evaluate`, a page from many rows."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

import liminal_hf
from liminal_hf.benchmark import corpora, leaderboard
from liminal_hf.benchmark.measure import row
from liminal_hf.benchmark.readers import Reader, Reading, open_reader
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.errors import LiminalError

TEXTS = {"What a lovely surprise!": 5, "I hate this awful place.": 1, "The bus leaves at ten.": 3, "We won, hooray!": 5,
         "He died alone and in pain.": 1, "She opened the door.": 3}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of one's own, and nothing else at hand."""
    monkeypatch.setenv("LIMINAL_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "own"
    folder.mkdir()
    rows = [f'"{text}",{value},{abs(value - 3) + 2},{len(text) / 10}' for text, value in TEXTS.items()]
    (folder / "mine.csv").write_text("\n".join(["said,V,A,D", *rows, '"",3,3,3', '"No label",,,']) + "\n", "utf-8")
    labels = [f"  {name}: {{column: {name[0].upper()}, scale: [1, 5]}}" for name in DIMENSIONS]
    labels[0] = labels[0].replace("column: P", "column: V")
    (folder / "mine.yaml").write_text(
        "\n".join(["title: Mine", "file: mine.csv", "text: said", "labels:", *labels]) + "\n", encoding="utf-8"
    )
    return folder


def measured(run: Run, *arguments: Any) -> dict[str, Any]:
    status, out, err = run("benchmark", *arguments, "--folder", "own", "--corpora", "mine", "--json")
    assert status == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_a_checkpoint_has_the_figures_that_evaluate_has(own: Path, run: Run) -> None:
    whole = measured(run, "minilm")
    one = whole["corpora"]["mine"]
    assert (one["rows"], one["left_out"], one["unread"]) == (6, 2, 0)
    lines = (own / "mine.csv").read_text(encoding="utf-8").splitlines()[: 1 + len(TEXTS)]
    (own / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    status, out, err = run("evaluate", "minilm", "--data", own / "table.csv", "--text", "said", "--json")
    assert status == 0, err
    expected = json.loads(out)["metrics"]
    for name, key in (("r", "pearson"), ("ccc", "ccc"), ("mae", "mae")):
        for dimension in DIMENSIONS:
            assert one[name][dimension] == pytest.approx(expected[f"{key}_{dimension}"], abs=1e-3)
    assert set(one["coverage"]) == {"80%", "90%"} and 0 <= one["coverage"]["80%"] <= one["coverage"]["90%"] <= 1
    assert whole["behaviour"]["mean"] > 0.5 and whole["speed"]["times_reference"] == 1
    assert whole["about"]["sha256"] and whole["about"]["encoder"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_functions_lexicons_and_vader_are_readers(own: Path, run: Run) -> None:
    Path("mymodel.py").write_text(
        "import numpy as np\n"
        "def length(texts):\n    return [float(len(text)) for text in texts]\n"
        "def short(texts):\n    return [0.0]\n"
        "def partly(texts):\n    return np.array([[i or np.nan, np.nan, np.nan] for i in range(len(texts))])\n",
        encoding="utf-8",
    )
    lengths = np.array([len(text) for text in TEXTS])
    expected = np.corrcoef(lengths, list(TEXTS.values()))[0, 1]
    one = measured(run, "mymodel:length")["corpora"]["mine"]
    assert one["r"]["pleasure"] == pytest.approx(expected, abs=1e-4) and "coverage" not in one
    assert measured(run, "mymodel:partly")["corpora"]["mine"]["unread"] == 1
    status, _, err = run("benchmark", "mymodel:short", "--folder", "own", "--corpora", "mine")
    assert status == 2 and "gave 1 rows" in err and "for 6 texts" in err
    Path("words.tsv").write_text("Word\tValence\nlovely\t9\nhate\t1\nhooray\t9\npain\t1\nbus\t5\n", encoding="utf-8")
    lexicon = measured(run, "words.tsv")["corpora"]["mine"]["r"]["pleasure"]
    assert lexicon > 0.9
    # As a German Excel writes it.
    words = "Word;Valence\nlovely;9,0\nhate;1,0\nhooray;9,0\npain;1,0\nbus;5,0\n"
    Path("words.csv").write_text(words, encoding="utf-16")
    assert measured(run, "words.csv")["corpora"]["mine"]["r"]["pleasure"] == lexicon
    pytest.importorskip("vaderSentiment")
    assert measured(run, "vader")["corpora"]["mine"]["r"]["pleasure"] > 0.8


@pytest.mark.parametrize(
    ("labels", "dimensions"),
    [(["NEGATIVE", "neutral", "Positive"], 1), (["1 star", "5 stars"], 1), (["joy", "anger", "neutral"], 3),
     (["valence", "arousal", "dominance"], 3)],
)  # fmt: skip
def test_classifiers_answer_by_what_their_labels_mean(labels: list[str], dimensions: int, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        id2label=dict(enumerate(labels)), label2id={name: index for index, name in enumerate(labels)},
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    reading = open_reader(str(tmp_path / "model")).read(list(TEXTS))
    assert (~np.isnan(reading.pad)).all(0).sum() == dimensions
    batch = tokenizer(next(iter(TEXTS)), return_tensors="pt")
    logits = model.eval()(**batch).logits[0]
    if labels[0] == "NEGATIVE":
        shares = logits.softmax(-1)
        assert reading.pad[0, 0] == pytest.approx(float(shares[2] - shares[0]), abs=1e-5)
    if labels[0] == "valence":
        assert reading.pad[0] == pytest.approx(logits.tolist(), abs=1e-5)


def test_labels_without_a_position_are_an_error(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LiminalError, match="module:function"):
        open_reader(str(tmp_path))


def test_rows_are_kept_and_make_a_page(own: Path, run: Run) -> None:
    for reader in ("constant", "minilm"):
        measured(run, reader, "-o", "rows")
    status, _, err = run("benchmark", "constant", "-o", "rows", "--folder", "own", "--corpora", "mine")
    assert status == 0 and "--again measures it anew" in err
    # A row of other weights under the same name is none.
    kept = Path("rows/minilm.json").read_text(encoding="utf-8")
    digest = json.loads(kept)["about"]["sha256"]["model.safetensors"]
    Path("rows/minilm.json").write_text(kept.replace(digest, "0" * 64), encoding="utf-8")
    assert measured(run, "minilm", "-o", "rows")["about"]["sha256"]["model.safetensors"] == digest
    for words in (2, 3):
        lines = ["Word\tValence", "lovely\t9", "hate\t1", "bus\t5"][: words + 1]
        Path("words.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        assert measured(run, "words.tsv", "-o", "others")["about"]["words"] == words
    Path("mymodel2.py").write_text("def f(texts):\n    return [0.5] * len(texts)\n", encoding="utf-8")
    measured(run, "mymodel2:f", "-o", "rows", "--limit", "20")  # a quick look stays out
    for page in ("page.html", "page.md"):
        status, _, err = run("benchmark", "-o", "rows", "--leaderboard", page)
        assert status == 0, err
    rows = leaderboard.read_rows(Path("rows"))
    assert [each["name"] for each in rows] == ["minilm", "constant"]
    text = Path("page.md").read_text(encoding="utf-8")
    Path("page.md").write_text("# Mine\n\n" + text, encoding="utf-8")
    run("benchmark", "-o", "rows", "--leaderboard", "page.md")
    assert Path("page.md").read_text(encoding="utf-8") == "# Mine\n\n" + text
    assert text.splitlines()[5].startswith("| minilm | ours | ") and "mymodel2" not in text
    assert "http" not in Path("page.html").read_text(encoding="utf-8").replace("http-equiv", "")


def test_errors_say_what_is_allowed(own: Path, run: Run) -> None:
    for arguments, message in (
        ((), "liminal benchmark minilm vader"),
        (("minilm", "--leaderboard", "a.html"), "-o FOLDER"),
        (("no-such-thing",), "A reader is minilm"),
        (("nosuch:thing",), "module:function"),
        (("minilm", "--corpora", "nothing"), "There are: "),
        (("constant", "--corpora", "hutto-tweets"), "LIMINAL_DATA_DIR"),
    ):
        status, _, err = run("benchmark", *arguments)
        assert status == 2 and message in err, (arguments, err)
    (own / "mine.yaml").write_text("title: Mine\nfile: mine.csv\nlabels: {joy: {column: V, scale: [1, 5]}}\n", "utf-8")
    status, _, err = run("benchmark", "constant", "--folder", "own", "--corpora", "mine")
    assert status == 2 and "no corpus file" in err


def test_a_windows_table_gives_the_same_corpus(own: Path) -> None:
    before = corpora.load(own / "mine.yaml")
    lines = (own / "mine.csv").read_text(encoding="utf-8").splitlines()
    cells = [next(csv.reader([line])) for line in lines]
    rows = [";".join([f'"{one[0]}"', *(cell.replace(".", ",") for cell in one[1:])]) for one in cells]
    (own / "mine.csv").write_text("\r\n".join(rows).replace("hooray", "h\u00f6\u00f6ray"), encoding="cp1252")
    after = corpora.load(own / "mine.yaml")
    assert before is not None and after is not None and np.array_equal(before.labels, after.labels)
    assert [text.replace("\u00f6", "o") for text in after.texts] == before.texts


def test_a_dimension_that_some_rows_lack_is_measured_on_the_others() -> None:
    labels = np.random.default_rng(0).uniform(-1, 1, (12, 3))
    said = labels + 0.1
    said[0, 1] = said[3] = np.nan
    corpus = corpora.Corpus("c", corpora.Description(title="C"), [f"text {i}" for i in range(12)], labels)

    def read(texts: list[str]) -> Reading:
        return Reading(said if len(texts) == 12 else np.resize(said, (len(texts), 3)))

    found = row(Reader("r", "function", read), [corpus])
    one = found["corpora"]["c"]
    assert one["unread"] == 1 and one["r"]["arousal"] == 1 and one["mae"]["arousal"] == pytest.approx(0.1)
    assert found["behaviour"] is not None


def test_every_corpus_of_the_package_is_described(data_dir: Path) -> None:
    for name, path in corpora.names().items():
        corpus = corpora.load(path, limit=25, data_dir=data_dir)
        assert corpus is not None and len(corpus.texts) == 25, name
        known = corpus.labels[~np.isnan(corpus.labels)]
        assert len(known) >= 25 and np.abs(known).max() <= 1
