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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from gradio_client import Client, handle_file
from transformers import pipeline

import liminal_hf
from liminal_hf import demo
from liminal_hf.chat import sharp_turn, trend
from liminal_hf.cli import main
from liminal_hf.modeling.configuration_liminal import DIMENSIONS

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
        assert row[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float | dict) else value), name


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
    assert demo._log(conversation).count("SHARP TURN") == sum(row["sharp"] for row in conversation.rows)


def test_one_text_is_that_of_the_pipeline(reader: demo.Reader, pad: Any) -> None:
    row, expected = reader.read("Good morning."), pad("Good morning.")
    assert_same(row, expected)
    assert row["pad_trajectory"][-1] == pytest.approx([expected[name] for name in DIMENSIONS])
    steps = pad.model.config.num_outer_steps
    assert len(row["confidences"]) == len(row["step_attentions"]) == steps and row["cut"] == 0
    long = reader.read("word " * 500)
    assert long["cut"] == 502 - pad.model.config.max_seq_length
    assert f"first {pad.model.config.max_seq_length} tokens" in demo._reading(long, pad.model.config.max_seq_length)


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
    page = demo._log(conversation) + demo._note(HOSTILE, wrong=True)
    assert "<img" not in page and "<script" not in page and "<b>Eve" not in page
    assert "&lt;img" in page and "<bdi>&lt;b&gt;Eve" in page
    assert len(demo._log(reader.say(demo.Conversation(), "<" * 20_000, "you"))) < 6000
    demo._trajectory(conversation, 390)


# ---- tables ----


def test_a_table_comes_back_with_numbers_and_errors(reader: demo.Reader, pad: Any) -> None:
    texts = ["What a lovely surprise!", "", "Go away!", "x" * 30_000, "None"]
    lines = [
        "id,text,pleasure",
        *(f"{number},{text},0.5" for number, text in enumerate(texts)),
        "7,too,many,cells",
        "8",
    ]
    scored = reader.score("\n".join(lines).encode())
    assert (scored.rows, scored.errors) == (7, 4) and str(scored).startswith("3 of 7 rows read. The column error")
    rows = rows_of(scored.content)
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4", "7", "8"]
    assert all(row["given_pleasure"] == "0.5" for row in rows[:5])
    assert ["empty" in row["error"] for row in rows] == [False, True, False, False, False, False, False]
    assert "30,000 characters" in rows[3]["error"]
    assert rows[5]["error"] == "The row has 4 cells, the first line 3."
    assert rows[6]["error"] == "The row has 1 cell, the first line 3."
    for row in (rows[0], rows[2], rows[4]):
        expected = pad(row["text"])
        assert row["error"] == "" and row["octant"] == expected["octant"]
        for name in DIMENSIONS:
            assert float(row[name]) == pytest.approx(expected[name], abs=6e-5)
            assert float(row[f"uncertainty_{name}"]) == pytest.approx(expected["uncertainty"][name], abs=6e-5)
    assert all(rows[1][name] == "" for name in (*DIMENSIONS, "confidence", "octant"))


def test_a_spreadsheet_runs_nothing_of_it(reader: demo.Reader) -> None:
    cells = ["=1+1", "+cmd", "-2", "@SUM(A1)", "\tx", " =1", "\uff1dA1", "-x", "+4.5"]
    lines = ["=name,text", *(f'"{cell}",fine' for cell in cells), 'a,"=HYPERLINK(""x"")"']
    rows = rows_of(reader.score("\n".join(lines).encode()).content)
    found = [row["'=name"] for row in rows]
    expected = ["'=1+1", "'+cmd", "-2", "'@SUM(A1)", "'\tx", "' =1", "'\uff1dA1", "'-x", "+4.5", "a"]
    assert found == expected and rows[-1]["text"] == '\'=HYPERLINK("x")'


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_several_kinds(reader: demo.Reader, separator: str) -> None:
    content = "\r\n".join([f"Who{separator}Message", "", f'me{separator}"one\r\n""two"""']).encode("utf-8-sig")
    out = reader.score(content, " message ").content.decode("utf-8-sig")
    row = next(csv.DictReader(io.StringIO(out, newline=""), delimiter=separator))
    assert row["Message"] == 'one\r\n"two"' and row["octant"]
    assert reader.score(b"anything\nHello\n").errors == 0, "one column needs no name"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no rows"),
        (b"text\n", "no rows"),
        (b"a,b\n1,2\n", "no column 'text'. Type the name of the one with the texts: a, b"),
        ("text\nn\xe4\n".encode("latin-1"), r"not UTF-8 \(line 2\)"),
        (b'id,text\n1,"never closed\n2,x\n', "no CSV that can be read"),
        (b"text\n" + b"x\n" * 5001, "5,001 rows; this page takes 5,000"),
        (b"x" * 5_000_001, "5,000,001 bytes"),
        (b"PK\x03\x04\xff\xfe", "not UTF-8"),
    ],
)
def test_files_that_are_no_table_get_a_sentence(reader: demo.Reader, content: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        reader.score(content)


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
    (tmp_path / "mine.csv").write_text("message\nGood morning.\n \n", encoding="utf-8")
    path, counts = client.predict(handle_file(tmp_path / "mine.csv"), "message", api_name="/score")
    assert counts == {"rows": 2, "errors": 1}
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
            assert page.locator(f"#reading [data-name={name}]").inner_text() == shown(row[name])
        assert row["octant"] in page.locator("#reading").inner_text()
        assert page.locator("#steps img").get_attribute("alt").startswith("PAD after each of 5 steps")


def test_a_csv_goes_in_and_comes_back(browser: Any, address: str, pad: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("id,text\n1,Good morning.\n2,\n=3,Go away!\n", encoding="utf-8")
    with visitor(browser, address) as page:
        page.get_by_role("tab", name="A table").click()
        page.get_by_role("button", name="Read the table").click()
        page.get_by_text("There is no file yet. Choose a CSV first.").wait_for()
        page.locator("input[type=file]").first.set_input_files(path)
        # The page shows the name and its ending apart.
        page.get_by_text("mine", exact=True).wait_for()
        page.get_by_label("Column with the texts").fill("message")
        page.get_by_role("button", name="Read the table").click()
        page.get_by_text("no column 'message'").wait_for()
        page.get_by_label("Column with the texts").fill("text")
        page.get_by_role("button", name="Read the table").click()
        page.get_by_text("2 of 3 rows read.").wait_for()
        with page.expect_download() as download:
            page.get_by_text("Download predictions.csv").click()
        assert download.value.suggested_filename == "predictions.csv"
        rows = rows_of(Path(download.value.path()).read_bytes())
    assert [row["id"] for row in rows] == ["1", "2", "'=3"] and "empty" in rows[1]["error"]
    for row in (rows[0], rows[2]):
        assert float(row["arousal"]) == pytest.approx(pad(row["text"])["arousal"], abs=6e-5)


def test_a_phone_s_width_needs_no_sideways_scrolling(browser: Any, address: str) -> None:
    with visitor(browser, address, width=390, has_touch=True) as page:
        assert fits(page)
        say(page, "n" * 40, "x" * 3000)
        page.locator("#trajectory img").wait_for()
        assert fits(page)
        box = page.locator("#trajectory img").bounding_box()
        width = page.locator("#trajectory img").evaluate("image => image.naturalWidth")
        # Drawn for this width: a letter of 9 points stays at least 10 pixels high.
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and width / demo._DOTS_PER_INCH <= 4 < box["width"] / 60
        for name in ("One text", "A table"):
            page.get_by_role("tab", name=name).click()
            page.get_by_role("tabpanel").filter(visible=True).first.wait_for()
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
