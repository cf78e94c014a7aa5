"""The page of `liminal demo`, in a real process: through gradio_client, and in a real Chromium as visitors use it.

The tests in the browser need `chromium` (Debian's package of that name) and skip without it.
"""

import csv
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import yaml
from gradio_client import Client, handle_file
from transformers import pipeline

import liminal_hf
from liminal_hf import demo
from liminal_hf.chat import sharp_turn, trend
from liminal_hf.cli import main
from liminal_hf.demo._view import _DOTS_PER_INCH, note_html, numbers_table, trajectory_html, turns_html
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.errors import LiminalError

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
TALK = [
    ("Ana", "I found your letter today, what a lovely surprise!"),
    ("Ben", "I hoped you would like it."),
    ("Ana", "Then you forgot our date again, and I am furious!"),
]
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script> & \u202eolleh"
# Notes every attempt to reach another machine.
WATCH = """
import os, socket
def watched(name):
    original = getattr(socket.socket, name)
    def connect(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1", "0.0.0.0"):
            with open(os.environ["CONNECTIONS"], "a") as file:
                print(address, file=file)
        return original(self, address)
    setattr(socket.socket, name, connect)
watched("connect"), watched("connect_ex")
"""


@pytest.fixture(scope="module")
def pad(minilm: Path) -> Any:
    return pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)


@pytest.fixture(scope="module")
def reader(pad: Any) -> demo.Reader:
    return demo.Reader(pad)


def shown(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def assert_same(row: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The row has the pipeline's values; numbers within rounding."""
    for name, value in wanted.items():
        if isinstance(value, dict):
            assert_same(row[name], value)
        else:
            close = isinstance(value, float | list)
            assert row[name] == (pytest.approx(value, abs=1e-5) if close else value), name


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


# ---- what the page asks of the pipeline ----


def test_turns_are_those_of_the_pipeline(reader: demo.Reader, pad: Any) -> None:
    conversation = demo.Conversation()
    for speaker, text in TALK:
        before = conversation
        conversation = reader.say(conversation, text, f" {speaker} ")
        assert len(before.rows) == len(conversation.rows) - 1, "a conversation never changes"
    expected = pad([{"role": "user", "speaker": speaker, "content": text} for speaker, text in TALK])
    for row, wanted in zip(conversation.rows, expected, strict=True):
        assert_same(row, wanted)
    assert conversation.texts == tuple(text for _, text in TALK) and conversation.state.turns == 3
    assert conversation.rows[2]["trend"] == trend(expected[:1], expected[2])
    assert conversation.rows[2]["sharp"] == sharp_turn(expected[0], expected[2])
    assert turns_html(conversation).count("SHARP TURN") == sum(row["sharp"] for row in conversation.rows)


def test_one_text_is_that_of_the_pipeline(reader: demo.Reader, pad: Any) -> None:
    row, expected = reader.read("Good morning."), pad("Good morning.")
    assert_same(row, expected)
    assert numbers_table(row, list(DIMENSIONS))["data"][0][:2] == ["pleasure", shown(row["pleasure"])]
    assert row["pad_trajectory"][-1] == pytest.approx([expected[name] for name in DIMENSIONS])
    assert len(row["pad_trajectory"]) == pad.model.config.num_outer_steps and row["cut"] == 0
    long = reader.read("word " * 500)
    assert long["cut"] == 502 - pad.model.config.max_seq_length and long["truncated"]
    turn = reader.say(demo.Conversation(), "word " * 500, "you")
    assert "its end was left out" in turns_html(turn)


@pytest.mark.parametrize(
    ("text", "speaker", "sentence"),
    [
        ("", "you", "The text is empty"),
        ("   ", "you", "The text is empty"),
        ("half \ud83d", "you", "half of a character"),
        ("x" * 1_000_000, "you", "The text has 1,000,000 characters; this page takes 20,000"),
        ("Hello", "", "The name of who speaks is empty"),
        ("Hello", "n" * 41, "The name of who speaks has 41 characters; 40 at most"),
        ("Hello", "\udfff", "half of a character"),
        (None, "you", "must be a string"),
        ("\U0001f621", "you", "no token of this text is known to the model"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence(reader: demo.Reader, text: Any, speaker: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        reader.say(demo.Conversation(), text, speaker)


def test_a_conversation_has_an_end(reader: demo.Reader) -> None:
    full = demo.Conversation(rows=({"speaker": "you"},) * demo.MAX_TURNS)
    with pytest.raises(ValueError, match=r"200 turns at most\. Start a new conversation"):
        reader.say(full, "Hello", "you")


def test_a_stranger_s_text_stays_text(reader: demo.Reader) -> None:
    conversation = reader.say(demo.Conversation(), HOSTILE, "<b>Eve</b>")
    page = turns_html(conversation) + note_html(HOSTILE, wrong=True)
    assert "<img" not in page and "<script" not in page and "<b>Eve" not in page
    assert "&lt;img" in page and "<bdi>&lt;b&gt;Eve" in page
    assert len(turns_html(reader.say(demo.Conversation(), "<" * 20_000, "you"))) < 6000
    trajectory_html(conversation, list(DIMENSIONS), 390)


# ---- tables ----


def kept(folder: Path, content: bytes, name: str = "mine.csv") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_a_table_comes_back_with_numbers_and_errors(reader: demo.Reader, pad: Any, tmp_path: Path) -> None:
    texts = ["What a lovely surprise!", "", "Go away!", "x" * 30_000, "None", "so " * 300]
    lines = [
        "id,text,pleasure",
        *(f"{number},{text},0.5" for number, text in enumerate(texts)),
        "7,too,many,cells",
        "8",
    ]
    shares: list[float] = []
    scored = reader.score(kept(tmp_path, "\n".join(lines).encode()), progress=shares.append)
    assert (len(scored.columns), scored.errors, scored.truncated, shares[-1]) == (8, 4, 1, 1.0)
    assert str(scored).startswith("4 of 8 rows read. 1 text longer than the model reads")
    rows = rows_of(scored.save(tmp_path).read_bytes())
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4", "5", "7", "8"]
    assert all(row["given_pleasure"] == "0.5" for row in rows[:6])
    assert [row["error"] for row in rows[:3]] == ["", "empty", ""] and "30,000 characters" in rows[3]["error"]
    assert rows[6]["error"] == "line 8 has 4 cells, the header has 3 cells" and "1 cell" in rows[7]["error"]
    assert [row["truncated"] for row in rows] == ["FALSE"] * 5 + ["TRUE"] + ["FALSE"] * 2
    for row in (rows[0], rows[2], rows[4]):
        expected = pad(row["text"])
        assert row["error"] == "" and row["octant"] == expected["octant"]
        for name in DIMENSIONS:
            assert float(row[name]) == pytest.approx(expected[name], abs=6e-5)
            assert float(row[f"uncertainty_{name}"]) == pytest.approx(expected["uncertainty"][name], abs=6e-5)
    assert all(rows[1][name] == "" for name in (*DIMENSIONS, "confidence", "octant"))


def test_a_table_keeps_its_locale(reader: demo.Reader, tmp_path: Path) -> None:
    """A German Excel's CSV comes back as that Excel reads it."""
    path = kept(tmp_path, "Nr;Was f\u00e4llt dir ein?;Wert\n1;I am so glad;-1,5\n2;So sad;3,25\n".encode("cp1252"))
    names, likely = demo.columns_of(path)
    assert names == ["Nr", "Was f\u00e4llt dir ein?", "Wert"] and likely == names[1]
    out = reader.score(path, likely).save(tmp_path).read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(out), delimiter=";"))
    assert [row["Wert"] for row in rows] == ["-1,5", "3,25"]
    assert all(re.fullmatch(r"-?\d,\d+", row[name]) for row in rows for name in DIMENSIONS)


def test_a_spreadsheet_goes_in_and_out(reader: demo.Reader, pad: Any, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["id", "said"], [1, "What a lovely surprise!"], [2, None], [3, "=1+1"]):
        book.active.append(row)
    book.save(tmp_path / "mine.xlsx")
    assert demo.columns_of(tmp_path / "mine.xlsx") == (["id", "said"], "said")
    path = reader.score(tmp_path / "mine.xlsx", "said").save(tmp_path)
    header, *rows = openpyxl.load_workbook(path).active.iter_rows(values_only=True)
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert path.name == "predictions.xlsx" and len(found) == 3 and found[1]["error"] == "no text (missing value)"
    assert found[0]["pleasure"] == pytest.approx(pad("What a lovely surprise!")["pleasure"], abs=6e-5)


def test_a_spreadsheet_runs_nothing_of_it(reader: demo.Reader, tmp_path: Path) -> None:
    cells = ["=1+1", "+cmd", "-2", "@SUM(A1)", "\tx", " =1", "-x", "+4.5"]
    lines = ["=name,text", *(f'"{cell}",fine' for cell in cells), 'a,"=HYPERLINK(""x"")"']
    rows = rows_of(reader.score(kept(tmp_path, "\n".join(lines).encode())).save(tmp_path).read_bytes())
    found = [row["'=name"] for row in rows]
    assert found == ["'=1+1", "'+cmd", "-2", "'@SUM(A1)", "'\tx", "' =1", "'-x", "+4.5", "a"]
    assert rows[-1]["text"] == '\'=HYPERLINK("x")'


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_of_several_kinds(reader: demo.Reader, tmp_path: Path, separator: str, encoding: str) -> None:
    lines = [f'"Who, or what"{separator}Message', "", f'me{separator}"one\r\n""two"""', f"you{separator}fine"]
    path = kept(tmp_path, "\r\n".join(lines).encode(encoding), "mine.txt")
    out = reader.score(path, " message ").save(tmp_path).read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(out, newline=""), delimiter=separator))
    assert [row["Message"].split()[-1] for row in rows if row["Message"]] == ['"two"', "fine"] and rows[-1]["octant"]
    assert reader.score(kept(tmp_path, b"anything\nHello\n")).errors == 0, "one column needs no name"


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        (b"", "a.csv", "a.csv is empty"),
        (b"text\n", "a.csv", "no rows"),
        (b"a,b\n1,2\n", "a.csv", "^a.csv has no column 'text'. Its columns: 'a', 'b'"),
        (b"text,text\n1,2\n", "a.csv", "two columns 'text'"),
        (b"text\n" + b"x\n" * 5001, "a.csv", "more than 5,000 rows"),
        (b"x" * 5_000_001, "a.csv", "5,000,001 bytes"),
        (b"PK\x03\x04\xff\xfe", "a.xlsx", "no Excel file that can be read"),
        (b"text\nx\n", "a.docx", r"ending is '.docx'; this page takes .csv"),
    ],
)
def test_files_that_are_no_table_get_a_sentence(
    reader: demo.Reader, tmp_path: Path, content: bytes, name: str, sentence: str
) -> None:
    with pytest.raises(LiminalError, match=sentence) as error:
        reader.score(kept(tmp_path, content, name))
    assert str(tmp_path) not in str(error.value), "a visitor has no use for a folder of the server"


def test_a_packed_file_that_unpacks_to_too_much_is_refused(reader: demo.Reader, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("xl/worksheets/sheet1.xml", b" " * 150_000_000)
    assert (tmp_path / "bomb.xlsx").stat().st_size < demo.MAX_BYTES
    with pytest.raises(LiminalError, match="bytes; this page takes"):
        reader.score(tmp_path / "bomb.xlsx")


# ---- the page ----


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def page_of(command: list[str], folder: Path, port: int) -> Iterator[str]:
    """Runs a page, gives its address, and ends it as Ctrl-C does."""
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(folder / "watch"), "GRADIO_SERVER_PORT": str(port),
        "CONNECTIONS": str(folder / "connections"), "GRADIO_TEMP_DIR": str(folder / "files"),
    }  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        try:
            patience = time.monotonic() + 200
            while not (found := re.search(r"The page is at (\S+)", (folder / "log").read_text())):
                assert process.poll() is None and time.monotonic() < patience, (folder / "log").read_text()
                time.sleep(0.2)
            yield found[1]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0, (folder / "log").read_text()
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in (folder / "log").read_text()
    assert not (folder / "connections").exists(), (folder / "connections").read_text()


@pytest.fixture(scope="module")
def address(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    port = free_port()
    with page_of([sys.executable, "-m", "liminal_hf.cli", "demo", "--port", str(port)], folder, port) as url:
        yield url


def test_its_api_gives_the_pipeline_s_numbers(address: str, pad: Any, tmp_path: Path) -> None:
    client = Client(address, verbose=False)
    assert client.predict("Good morning.", api_name="/read")["pleasure"] == pytest.approx(
        pad("Good morning.")["pleasure"]
    )
    expected = pad([{"role": "user", "speaker": speaker, "content": text} for speaker, text in TALK])
    other = Client(address, verbose=False)
    for (speaker, text), wanted in zip(TALK, expected, strict=True):
        row = client.predict(text, speaker, api_name="/say")
        assert_same(row, wanted)
        assert other.predict("Something else.", speaker, api_name="/say")["turn"] == wanted["turn"]
    client.predict(api_name="/new")
    assert client.predict("Hello.", api_name="/say")["turn"] == 0
    assert other.predict("Hello.", api_name="/say")["turn"] == 3
    (tmp_path / "mine.csv").write_text('message\nGood morning.\n""\n', encoding="utf-8")
    path, counts = client.predict(handle_file(tmp_path / "mine.csv"), "message", api_name="/score")
    assert counts == {"rows": 2, "errors": 1, "truncated": 0}
    row = rows_of(Path(path).read_bytes())[0]
    assert float(row["pleasure"]) == pytest.approx(pad("Good morning.")["pleasure"], abs=6e-5)
    for endpoint in ("/say", "/read"):
        with pytest.raises(Exception, match="The text is empty"):
            client.predict("  ", api_name=endpoint)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(Exception, match="no column 'text'"):
        client.predict(handle_file(tmp_path / "other.csv"), api_name="/score")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # It makes a user data directory of its own, and removes it.
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def visitor(browser: Any, address: str, width: int = 1200, **options: Any) -> Iterator[Any]:
    """The page in a browser context of its own; whatever it asks for, it asks of the page's own server."""
    context = browser.new_context(viewport={"width": width, "height": 844}, **options)
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(90_000)
    page.goto(address)
    page.get_by_label("Next turn").wait_for()
    yield page
    assert page.title() == "How a text feels" and not errors
    assert all(url.startswith((address, "data:", "blob:")) for url in asked), asked
    context.close()


def say(page: Any, speaker: str, text: str) -> str:
    """Types a turn, and gives what the page shows of it."""
    number = page.locator("#log li").count() + 1
    page.get_by_label("Who speaks").fill(speaker)
    page.get_by_label("Next turn").fill(text)
    page.get_by_label("Next turn").press("Enter")
    page.wait_for_function("number => document.querySelectorAll('#log li').length == number", arg=number)
    return page.locator("#log li").last.inner_text()


def fits(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_conversation_in_the_browser(browser: Any, address: str, pad: Any) -> None:
    expected = pad([{"role": "user", "speaker": speaker, "content": text} for speaker, text in TALK])
    pictures = set()
    with visitor(browser, address) as page:
        for (speaker, text), row in zip(TALK, expected, strict=True):
            turn = say(page, speaker, text)
            assert text in turn and speaker in turn and row["octant"] in turn
            for name in DIMENSIONS:
                assert f"{name} {shown(row[name])} \u00b1 {row['uncertainty'][name]:.2f}" in turn
            page.wait_for_function(
                "seen => ![null, ...seen].includes(document.querySelector('#trajectory img')?.src ?? null)",
                arg=list(pictures),
            )
            pictures.add(page.locator("#trajectory img").get_attribute("src"))
            assert page.get_by_label("Next turn").input_value() == ""
        assert turn.count("falling") == list(trend(expected[:1], expected[2]).values()).count("falling")
        page.get_by_role("button", name="Start anew").click()
        page.get_by_text("No turn yet").wait_for()
        assert page.locator("#trajectory img").count() == 0
        assert say(page, "Ana", "Hello.").startswith("1. Ana")


def test_two_visitors_at_once_do_not_mix(browser: Any, address: str, pad: Any) -> None:
    with visitor(browser, address) as one, visitor(browser, address) as two:
        for number, (text, other) in enumerate([("I won!", "I lost."), ("So happy.", "So sad."), ("Ha!", "Oh no.")]):
            for page, mine in ((one, text), (two, other)):
                page.get_by_label("Next turn").fill(mine)
            # Both ask before either is answered.
            for page in (one, two):
                page.get_by_label("Next turn").press("Enter")
            for page, mine in ((one, text), (two, other)):
                page.wait_for_function(
                    "number => document.querySelectorAll('#log li').length == number", arg=number + 1
                )
                assert mine in page.locator("#log li").last.inner_text()
        for page, texts in ((one, ("I won!", "So happy.", "Ha!")), (two, ("I lost.", "So sad.", "Oh no."))):
            rows = pad([{"role": "you", "content": text} for text in texts])
            seen = page.locator("#log [data-name=pleasure]").all_inner_texts()
            assert seen == [shown(row["pleasure"]) for row in rows]


def test_one_text_by_keyboard_alone(browser: Any, address: str, pad: Any) -> None:
    row = pad("My keys are gone.")
    with visitor(browser, address) as page:
        page.get_by_role("tab", name="Conversation").focus()
        page.keyboard.press("ArrowRight")
        if page.get_by_role("tab", name="One text").get_attribute("aria-selected") != "true":
            page.get_by_role("tab", name="One text").press("Enter")
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.tagName") == "TEXTAREA":
                break
        page.keyboard.press("Control+A")
        page.keyboard.type("My keys are gone.")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == "Read this text"
        page.keyboard.press("Enter")
        page.locator("#steps img").wait_for()
        for name in DIMENSIONS:
            assert f"{name} {shown(row[name])}" in " ".join(page.locator("#values").inner_text().split())
        assert row["octant"] in page.locator("#reading").inner_text()
        assert page.locator("#steps img").get_attribute("alt").startswith("The answer after each of 5 steps")


def test_a_csv_goes_in_and_comes_back(browser: Any, address: str, pad: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("id,said\n1,Good morning.\n2,\n=3,Go away!\n", encoding="utf-8")
    with visitor(browser, address) as page:
        page.get_by_role("tab", name="A table").click()
        page.get_by_role("button", name="Read the table").click()
        page.get_by_text("There is no file yet. Choose a table first.").wait_for()
        page.locator("input[type=file]").first.set_input_files(path)
        column = page.get_by_label("Column with the texts")
        # The columns are listed, and the likely one is chosen.
        page.wait_for_function("() => document.querySelector('#column input')?.value == 'said'")
        column.click()
        assert [option.inner_text().strip("\u2713 \n") for option in page.get_by_role("option").all()] == ["id", "said"]
        column.press("Escape")
        page.get_by_role("button", name="Read the table").click()
        page.get_by_text("2 of 3 rows read.").wait_for()
        assert "Good morning." in page.locator("#preview").inner_text()
        with page.expect_download() as download:
            page.get_by_text("Download predictions.csv").click()
        assert download.value.suggested_filename == "predictions.csv"
        rows = rows_of(Path(download.value.path()).read_bytes())
    assert [row["id"] for row in rows] == ["1", "2", "'=3"] and "empty" in rows[1]["error"]
    for row in (rows[0], rows[2]):
        assert float(row["arousal"]) == pytest.approx(pad(row["said"])["arousal"], abs=6e-5)


def test_a_phone_s_width_needs_no_sideways_scrolling(browser: Any, address: str, tmp_path: Path) -> None:
    with visitor(browser, address, width=390, has_touch=True) as page:
        assert fits(page)
        say(page, "n" * 40, "so " + "x" * 3000)
        page.locator("#trajectory img").wait_for()
        assert fits(page)
        box = page.locator("#trajectory img").bounding_box()
        width = page.locator("#trajectory img").evaluate("image => image.naturalWidth")
        # Drawn for this width: a letter of 9 points stays at least 10 pixels high.
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and width / _DOTS_PER_INCH <= 4 < box["width"] / 60
        page.get_by_role("tab", name="One text").click()
        page.get_by_role("button", name="Read this text").click()
        page.locator("#steps img").wait_for()
        assert fits(page)
        page.get_by_role("tab", name="A table").click()
        page.locator("input[type=file][accept*=xlsx]").set_input_files(
            kept(tmp_path, b"id,text\n1,Good morning.\n2,\n")
        )
        page.wait_for_function("() => document.querySelector('#column input')?.value == 'text'")
        page.get_by_role("button", name="Read the table").click()
        page.get_by_text("1 of 2 rows read.").wait_for()
        assert fits(page)
        small = page.evaluate(
            "[...document.querySelectorAll('.liminal *, label, button')].filter(e => e.innerText && "
            "parseFloat(getComputedStyle(e).fontSize) < 11).map(e => e.innerText)"
        )
        assert not small


def test_long_empty_and_hostile_input_in_the_browser(browser: Any, address: str) -> None:
    with visitor(browser, address) as page:
        page.get_by_role("button", name="Read this turn").click()
        page.get_by_text("The text is empty. Give at least one word.").wait_for()
        assert HOSTILE.split(">")[0] in say(page, "<b>Eve</b>", HOSTILE)
        assert page.locator("#log img, #log script").count() == 0
        # What a paste would bring.
        page.get_by_label("Next turn").fill("x" * 1_000_000)
        page.get_by_role("button", name="Read this turn").click()
        page.get_by_text("The text has 1,000,000 characters").wait_for()
        page.get_by_label("Next turn").fill("")
        page.get_by_label("Next turn").evaluate(
            "box => { box.value = 'half ' + String.fromCharCode(0xd83d); box.dispatchEvent(new Event('input')) }"
        )
        page.get_by_role("button", name="Read this turn").click()
        page.get_by_text("half of a character").wait_for()
        assert say(page, "Eve", "And it goes on.").startswith("2. Eve")


# ---- a Space ----


def test_a_space_runs_what_was_exported(minilm: Path, tmp_path: Path, pad: Any, capsys: pytest.CaptureFixture) -> None:
    space = tmp_path / "space"
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--export", str(space)])
    assert ended.value.code == 0 and capsys.readouterr().out.strip() == str(space)
    front = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    import gradio

    assert front["sdk"] == "gradio" and front["sdk_version"] == gradio.__version__ and front["app_file"] == "app.py"
    assert len(front["short_description"]) <= 60 and front["title"]
    port = free_port()
    with page_of([sys.executable, "app.py"], space, port) as address:
        assert address == f"http://127.0.0.1:{port}/"
        row = Client(address, verbose=False).predict("Good morning.", api_name="/read")
        assert row["pleasure"] == pytest.approx(pad("Good morning.")["pleasure"])


def test_a_taken_port_gets_a_sentence(minilm: Path, capsys: pytest.CaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit) as ended:
            main(["demo", "--port", str(taken.getsockname()[1])])
    assert ended.value.code == 2 and "port" in capsys.readouterr().err
