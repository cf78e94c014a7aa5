"""The page without a server, in a real Chromium: its numbers are Python's, and nothing leaves the browser.

They skip without `chromium`, and without onnxruntime-web: `liminal demo --static FOLDER` keeps it, or LIMINAL_ORT_WEB.
"""

# ruff: noqa: RUF001 - letters of many scripts.

import csv
import functools
import http.server
import io
import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from demo_kit import FLAGS, HOSTILE, fits, rows_of
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from liminal_hf import DEFAULT_CHECKPOINT
from liminal_hf.data import load_emobank
from liminal_hf.data.writing import harmless
from liminal_hf.demo.static_page import page_facts, runtime_folder, write_static
from liminal_hf.explaining import explain
from liminal_hf.explaining.words import negated, word_spans
from liminal_hf.export.onnx_small import shrink
from liminal_hf.modeling.configuration_liminal import DIMENSIONS, LiminalConfig
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.texts import tokenize
from liminal_hf.modeling.windows import windows
from liminal_hf.scoring.scorer import Scorer, checkpoint_identity, load, onnx_folder

TEXTS, LARGEST = 500, 40_000_000
STORY = (
    'Dr. Smith woke up at six. The sun was shining \U0001f600 and he felt wonderful! Then the phone rang... "Why?" he '
    "asked. His brother, i.e. the younger one, had died at 3.30 a.m. in the night.\n\n1. He cried.\n2. Nobody came.\n"
    "今日は雨です。家にいます。Ça va? No. 7 is not a good number [1]. The U.S. team won :-) We weren't alone."
)
ODD = [
    "", "  \t", "\u200b", "\U0001f600", "[MASK] [SEP] x", "x" * 101, "ΣΊΣΥΦΟΣ İstanbul ﬁ ½", "你好，世界！我很高兴。",
    "Don't stop.\r\nI said: \"never\"; and, well\tno.", "-1,5", "=1+1 is what he said", "naïve café e\u0301", HOSTILE,
    f"{STORY} " * 3, "so sad, " * 90, "word" * 300, "antidisestablishmentarianism " * 60,
]  # fmt: skip
PIECES = [
    "word", "Ünïcode", "naïve", "😀", "🤣", "👨‍👩‍👧", "你好", "世界", "ß", "İstanbul", "ΣΊΣΥΦΟΣ", "don't", "[MASK]",
    "\u200b", "x" * 101, "日本", "カタカナー", "ﾊﾝｶｸ", "한국어", "ﬁ", "½", "٣", "e\u0301", "\t", "\n", "\x85", "\xa0",
    "…", "—", "''", "http://a.b/c?d=e", "#tag", "🇮🇹", "Mr.", "e.g.", "No. 5", "etc.", "J. R.", "3.50", "!", "?!",
    "»", ":-)", "not", "never a", "very", "isn\u2019t", "The", "he", "1.", "- item", "[sep]",
]  # fmt: skip


@pytest.fixture(scope="module")
def site(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("LIMINAL_ORT_WEB")
    if not given and not runtime_folder().is_dir():
        pytest.skip("needs onnxruntime-web: run `liminal demo --static FOLDER` once, or set LIMINAL_ORT_WEB")
    return write_static(tmp_path_factory.mktemp("static") / "site", runtime=given)


@pytest.fixture(scope="module")
def scorer(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """The very file of the page, read by Python."""
    folder = tmp_path_factory.mktemp("onnx")
    model, tokenizer = load(DEFAULT_CHECKPOINT)
    exported = onnx_folder(model, checkpoint_identity(model, tokenizer), memory=False, int8=False)
    shutil.copytree(exported, folder, dirs_exist_ok=True)
    shutil.copy(site / "model.onnx", folder)
    return Scorer(folder, tokenizer=tokenizer, threads=1)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page(site: Path) -> Iterator[Any]:
    """The page in a browser, loaded once; at the end, whom it asked for what is looked at."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with served(site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        context = browser.new_context(viewport={"width": 1200, "height": 844})
        asked: list[str] = []
        wrong: list[str] = []
        context.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.set_default_timeout(90_000)
        page.goto(address)
        page.locator("body[data-ready]").wait_for()
        loaded = set(asked)
        yield page
        assert page.title() == "How a text feels" and not wrong
        elsewhere = [
            line for line in asked if not line.startswith((f"GET {address}", "GET data:", f"GET blob:{address}"))
        ]
        assert len(elsewhere) == 0, elsewhere
        # Not even to its own server, once it is loaded: the same few files again are those that tests import.
        assert all(line in loaded or line.endswith(".js") for line in asked if "blob:" not in line), asked
        browser.close()


# ---- the folder ----


def test_without_npm_it_says_what_to_type(
    refused: Callable[..., str], own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refused("demo", "--static", tmp_path / "site")
    assert "there is no npm" in said and "npm pack onnxruntime-web@" in said and "--runtime runtime/package" in said
    assert not (tmp_path / "site").exists()


def test_another_runtime_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "package" / "dist").mkdir(parents=True)
    (tmp_path / "package" / "dist" / "ort.wasm.min.mjs").write_text("export {};")
    said = refused("demo", "--static", tmp_path / "site", "--runtime", tmp_path / "package")
    assert "another sha256" in said and "ort.wasm.min.mjs" in said and not (tmp_path / "site").exists()
    options = {"not an empty folder": ("--static", tmp_path), "--runtime goes with --static": ("--runtime", tmp_path)}
    for said, given in {**options, "leave --export": ("--static", tmp_path / "site", "--port", "7000")}.items():
        assert said in refused("demo", *given)


def test_a_tokenizer_that_the_page_lacks_is_refused() -> None:
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(LiminalError, match=r"WordPiece .* liminal demo --export"):
        page_facts(LiminalConfig(pooled_size=8, residual_quantiles=[[-1.0, 0.0, 1.0]] * 3), other)
    with pytest.raises(LiminalError, match="intervals"):
        page_facts(LiminalConfig(pooled_size=8), other)


def test_the_folder_is_small_and_says_its_licences(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    front = yaml.safe_load((site / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (front["sdk"], front["app_file"], front["license"]) == ("static", "index.html", "cc-by-sa-4.0")
    listed = (site / "licences.html").read_text(encoding="utf-8")
    assert "MIT" in listed and "cc-by-sa-4.0" in listed
    assert {path.name for path in (site / "licences").iterdir()} >= {"onnxruntime.txt", "model.md"}
    for path in (path for path in files if path.suffix in {".js", ".html", ".css"} and path.parent == site):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "innerHTML" not in text, path.name


def test_the_small_file_is_close_to_torch_and_can_not_be_made_smaller(scorer: Scorer, site: Path, pad: Any) -> None:
    texts = ["What a lovely surprise!", "I cried after the meeting and nobody noticed.", "The report has forty pages."]
    for row, wanted in zip(scorer.score(texts).to_pylist(), pad(texts), strict=True):
        for name in DIMENSIONS:
            assert row[name] == pytest.approx(wanted[name], abs=0.02)
            assert row[f"verdict_{name}"] == wanted["verdict"][name]
    with pytest.raises(LiminalError, match="no large weights in float"):
        shrink(site / "model.onnx", site.parent / "smaller.onnx")


# ---- the numbers ----


def many_texts(tokenizer: Any) -> list[str]:
    """EmoBank's development split where it is at hand, else words of the vocabulary, and what is odd."""
    folder = os.environ.get("LIMINAL_DATA_DIR")
    count = TEXTS - len(ODD)
    if folder and Path(folder).is_dir():
        return [*load_emobank(Path(folder))["validation"]["text"][:count], *ODD]
    draw = random.Random(0)
    words = [word for word in tokenizer.get_vocab() if word.isalpha()]
    return [*(" ".join(draw.choices(words, k=draw.randint(1, 25))) + "." for _ in range(count)), *ODD]


def test_500_texts_have_python_s_numbers(page: Any, scorer: Scorer, tmp_path: Path) -> None:
    texts = many_texts(scorer.tokenizer)
    expected = scorer.score(texts)
    with (tmp_path / "texts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(texts)])
    page.get_by_role("tab", name="A table").click()
    page.get_by_label("Table", exact=True).set_input_files(tmp_path / "texts.csv")
    page.get_by_role("button", name="Read the table").click()
    page.get_by_text(f"{TEXTS - sum(map(bool, expected['error'].to_pylist()))} of {TEXTS} rows read.").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download predictions.csv").click()
    found = rows_of(Path(download.value.path()).read_bytes())
    assert [row["id"] for row in found] == [str(index) for index in range(len(texts))]
    for text, row, wanted in zip(texts, found, expected.to_pylist(), strict=True):
        assert list(row)[2:] == list(wanted)
        for name, value in wanted.items():
            if isinstance(value, float):
                assert float(row[name]) == pytest.approx(value, abs=1e-4), (name, text)
            else:
                said = str(value).upper() if isinstance(value, bool) else str(value)
                assert row[name] == ("" if value is None else said)
    assert sum(row["windows"] not in ("", "1") for row in found) >= 3


def test_tokens_sentences_and_words_are_python_s(page: Any, scorer: Scorer) -> None:
    draw = random.Random(0)
    texts = [STORY, *ODD]
    texts += [
        "".join(draw.choice(PIECES) + draw.choice([" ", "", " ", "\n"]) for _ in range(draw.randint(1, 40)))
        for _ in range(2000)
    ]
    found = page.evaluate(
        """async (texts) => {
            const { Tokenizer } = await import("./tokenizer.js");
            const { Reader } = await import("./engine.js");
            const { negated, wordSpans } = await import("./words.js");
            const about = await (await fetch("page.json")).json();
            const vocabulary = await (await fetch("vocabulary.txt")).text();
            const reader = new Reader(about, null, new Tokenizer(about.tokenizer, vocabulary));
            return texts.map((text) => {
                const words = wordSpans(text, about.words);
                const cut = ([start, end]) => text.slice(start, end);
                const negations = negated(text, words, about.words).map(cut);
                const windows = reader.windows(text).map(({ start, end }) => [start, end]);
                return { ...reader.tokens(text), windows, words: words.map(cut), negations };
            });
        }""",
        texts,
    )
    tokens = tokenize(scorer.tokenizer, texts, scorer.max_length)
    for index, (text, row) in enumerate(zip(texts, found, strict=True)):
        assert row["ids"] == tokens.inputs["input_ids"][index], text
        assert (row["truncated"], row["unreadable"]) == (tokens.truncated[index], tokens.unreadable[index]), text
        spans = word_spans(text)
        assert row["words"] == [text[slice(*span)] for span in spans], text
        assert row["negations"] == [text[slice(*span)] for span in negated(text, spans)], text
        if index < 300:
            assert row["windows"] == [list(span) for span in windows(text, scorer.tokenizer, scorer.max_length)], text


def test_sentences_of_a_very_long_text_are_python_s_and_take_seconds(scorer: Scorer, page: Any) -> None:
    lines, words = "Yes.\n" * 200_000, "so it goes on and on " * 20_000
    found = page.evaluate(
        """async ([lines, words]) => {
            const { Sentences } = await import("./sentences.js");
            const about = await (await fetch("page.json")).json();
            const sentences = new Sentences(about.sentences);
            const start = performance.now();
            const spans = sentences.fitting(words, sentences.split(words), (piece) => piece.length > 500);
            return [sentences.split(lines).length, spans.length, performance.now() - start];
        }""",
        [lines, words],
    )
    assert found[0] == 200_000 and found[1] > 800 and found[2] < 20_000


def test_tables_of_every_kind_are_read_and_nothing_runs(page: Any) -> None:
    rows = [
        ["id", "text", "n"],
        ["1", 'a "b"; c, d', "1,5"],
        ["2", "two\nlines", "2,5"],
        ["3", "=1+1", "-3"],
        ["4", " @x", ""],
    ]
    for separator in ",;\t|":
        for end in ("\n", "\r\n"):
            stream = io.StringIO()
            csv.writer(stream, delimiter=separator, lineterminator=end).writerows(rows)
            found = page.evaluate(
                """async (text) => {
                    const { decode, readTable } = await import("./table.js");
                    return readTable(decode(new TextEncoder().encode("\\ufeff" + text)));
                }""",
                stream.getvalue(),
            )
            assert [found["header"], *(row["cells"] for row in found["rows"])] == rows
            assert (found["separator"], found["decimal"]) == (separator, ",")
            assert not any("error" in row for row in found["rows"])
    cells = [
        "=1",
        "+1",
        "-1,5",
        "- no",
        "@a",
        " =x",
        "\t=x",
        "-5%",
        "1e5",
        "-1e5",
        "fine",
        "",
        "+49 30 123",
        "-",
        "=-1",
    ]
    guarded = page.evaluate(
        """async (cells) => {
            const { harmless } = await import("./table.js");
            const about = await (await fetch("page.json")).json();
            return cells.map((cell) => harmless(cell, about));
        }""",
        cells,
    )
    assert guarded == [harmless(cell) for cell in cells]


def test_a_reading_that_is_stopped_keeps_every_row(page: Any) -> None:
    page.get_by_role("tab", name="A table").click()
    lines = "".join(f"{index},A long day in {index} offices.\n" for index in range(400))
    file = {"name": "a.csv", "mimeType": "text/csv", "buffer": f"id,said\n{lines}".encode()}
    page.get_by_label("Table", exact=True).set_input_files(file)
    page.get_by_role("button", name="Read the table").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Download predictions.csv").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download predictions.csv").click()
    rows = rows_of(Path(download.value.path()).read_bytes())
    unread = [row for row in rows if row["error"]]
    assert len(rows) == 400 and unread and {row["error"] for row in unread} == {"not read: it was stopped"}
    assert all(row["pleasure"] for row in rows if not row["error"])


# ---- the page ----


def test_the_browser_itself_forbids_to_send_anything_elsewhere(page: Any, tmp_path: Path) -> None:
    with served(tmp_path) as elsewhere:
        tab = page.context.browser.new_page()
        tab.goto(page.url, wait_until="domcontentloaded")
        tried = tab.evaluate(
            """async (address) => {
                const refused = [];
                document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
                const sent = await fetch(address, { mode: "no-cors" }).then(() => true, () => false);
                navigator.sendBeacon(address, "x");
                new Image().src = address;
                await new Promise((done) => setTimeout(done, 200));
                return [sent, [...new Set(refused)].sort()];
            }""",
            elsewhere,
        )
        tab.close()
    assert tried == [False, ["connect-src", "img-src"]]


def test_screen_readers_have_a_name_for_everything(page: Any) -> None:
    roles = ("button", "textbox", "combobox", "tab", "tablist", "tabpanel", "progressbar", "region", "img", "link")
    seen = set()
    for tab in ("One text", "A long text", "A table"):
        page.get_by_role("tab", name=tab).click()
        for line in page.locator("body").aria_snapshot().splitlines():
            role = line.strip().removeprefix("- ").split(" ")[0].rstrip(":")
            if role in roles:
                seen.add(role)
                assert '"' in line, line
    assert seen >= {"button", "textbox", "combobox", "tab", "tabpanel"}
    assert page.locator("html").get_attribute("lang") == "en" and page.get_by_role("heading", level=1).count() == 1


def test_one_text_by_keyboard_alone(page: Any, scorer: Scorer) -> None:
    text = "The food was not good, but I loved the kind waiter."
    row = scorer.score([text]).to_pylist()[0]
    page.get_by_role("tab", name="A table").click()
    page.get_by_role("tab", name="A table").press("Home")
    assert page.get_by_role("tab", name="One text").get_attribute("aria-selected") == "true"

    def focused() -> str:
        return page.evaluate("document.activeElement.innerText || document.activeElement.id")

    page.keyboard.press("Tab")
    assert focused() == "text"
    page.keyboard.press("Control+A")
    page.keyboard.type(text)
    page.keyboard.press("Tab")
    assert focused() == "Read this text"
    started = page.evaluate("performance.now()")
    page.keyboard.press("Enter")
    page.locator("#reading .bar").first.wait_for()
    assert page.evaluate("performance.now()") - started < 2000
    shown = page.get_by_role("region", name="What the text reads like").inner_text()
    for name in DIMENSIONS:
        assert page.locator(f"#reading [data-name={name}]").inner_text() == f"{row[name]:+.2f}".replace("-", "\u2212")
        assert row[f"verdict_{name}"] in shown
    page.keyboard.press("Tab")
    assert focused() == "Which words moved it?"
    page.keyboard.press("Enter")
    page.locator("#words table").wait_for()
    explanation = explain(text, scorer)
    entries = explanation.words + explanation.negations
    lines = [line.locator("td").all_inner_texts() for line in page.locator("#words tbody tr").all()]
    assert [line[0] for line in lines] == [entry.word for entry in entries]
    for line, entry in zip(lines, entries, strict=True):
        for cell, name in zip(line[1:], DIMENSIONS, strict=True):
            assert float(cell.replace("\u2212", "-")) == pytest.approx(entry.effects[name], abs=0.00502)


def test_a_long_text_sentence_by_sentence(page: Any, scorer: Scorer) -> None:
    page.get_by_role("tab", name="A long text").click()
    page.get_by_role("button", name="Follow this text").click()
    page.get_by_text("The text is empty. Give at least one word.").wait_for()
    page.get_by_label("A text of any length").fill(STORY)
    page.get_by_role("button", name="Follow this text").click()
    page.locator("#course table").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download timeline.csv").click()
    rows = rows_of(Path(download.value.path()).read_bytes())
    spans = windows(STORY, scorer.tokenizer, scorer.max_length)
    assert [(int(row["start"]), int(row["end"])) for row in rows] == spans
    expected = scorer.score([STORY[slice(*span)] for span in spans]).to_pylist()
    for row, wanted in zip(rows, expected, strict=True):
        assert float(row["low_pleasure"] or 0) == pytest.approx(wanted["low_pleasure"] or 0, abs=1e-4)
        assert row["error"] == (wanted["error"] or "")
    # Screen readers are told what the figures show.
    for name in DIMENSIONS:
        assert "the whole text" in page.get_by_role("img", name=f"{name} of {len(spans)} sentences").get_attribute(
            "aria-label"
        )


def test_hostile_and_unreadable_input(page: Any, tmp_path: Path) -> None:
    page.get_by_role("tab", name="One text").click()
    page.get_by_label("Text", exact=True).fill(HOSTILE)
    page.get_by_role("button", name="Which words moved it?").click()
    page.locator("#words table").wait_for()
    assert page.locator("main img, main script").count() == 0 and page.title() == "How a text feels"
    for text, said in (("  ", "empty"), ("\U0001f600", "no token of this text is known")):
        page.get_by_label("Text", exact=True).fill(text)
        page.get_by_role("button", name="Read this text").click()
        page.locator("#reading .wrong", has_text=said).wait_for()
    page.get_by_role("tab", name="A table").click()
    page.get_by_label("Table", exact=True).set_input_files(
        {"name": "a.csv", "mimeType": "text/csv", "buffer": b'a,b\n"1,2\n'}
    )
    page.get_by_text("The quotation mark that line 2 opens is not closed.").wait_for()
    assert page.get_by_role("button", name="Read the table").is_disabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_in_the_dark(page: Any, scheme: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.get_by_role("tab", name="One text").click()
    page.get_by_label("Text", exact=True).fill("What a mess, I am so angry! " + "x" * 300)
    page.get_by_role("button", name="Read this text").click()
    page.locator("#reading .bar").first.wait_for()
    for tab in ("One text", "A long text", "A table"):
        page.get_by_role("tab", name=tab).click()
        assert fits(page), tab
    page.get_by_role("tab", name="One text").click()
    contrasts = page.evaluate(
        """() => {
            const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
            const light = (colour) => {
                canvas.fillStyle = colour;
                canvas.fillRect(0, 0, 1, 1);
                const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
                const linear = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
                return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
            };
            const behind = (one) => {
                for (; one; one = one.parentElement) {
                    const colour = getComputedStyle(one).backgroundColor;
                    if (!colour.endsWith(", 0)")) return colour;
                }
            };
            return [...document.querySelectorAll("p, b, label, button, h1, td, th, textarea, a")]
                .filter((one) => one.checkVisibility() && (one.innerText || one.value))
                .map((one) => {
                    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))];
                    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.innerText];
                });
        }"""
    )
    assert len(contrasts) > 10 and min(contrasts)[0] >= 4.5, min(contrasts)
    page.set_viewport_size({"width": 1200, "height": 844})
    page.emulate_media(color_scheme="light")


def test_the_published_table_is_that_of_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = Path(__file__).parents[1] / "scripts"
    monkeypatch.syspath_prepend(scripts)
    import static_page

    report = json.loads((scripts / "results" / "static_page.json").read_text(encoding="utf-8"))
    assert static_page.markdown(report).strip() in (scripts / "results" / "static_page.md").read_text(encoding="utf-8")
    # The targets.
    assert report["bytes"]["all"] <= LARGEST and report["seconds"]["the page, first answer"] < 2
    assert report["requests to other origins"] == 0 < report["requests"]
    assert report["texts"] == TEXTS and report["differences"]["the page - the page's file"]["largest"] < 1e-3
