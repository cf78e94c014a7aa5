"""The page of `liminal demo`, in a real process: through gradio_client, and in a real Chromium as visitors use it.

The tests in the browser need `chromium` (Debian's package of that name) and skip without it.
"""

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

import pytest
import yaml
from demo_kit import FLAGS, HOSTILE, TALK, assert_same, fits, kept, rows_of, shown
from gradio_client import Client, handle_file

from liminal_hf.chat import trend
from liminal_hf.cli import main
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.rows import in_words

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
    assert counts == {"rows": 2, "errors": 1, "long": 0}
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


def test_a_conversation_in_the_browser(browser: Any, address: str, pad: Any) -> None:
    expected = pad([{"role": "user", "speaker": speaker, "content": text} for speaker, text in TALK])
    with visitor(browser, address) as page:
        for (speaker, text), row in zip(TALK, expected, strict=True):
            turn = say(page, speaker, text)
            assert text in turn and speaker in turn and in_words(row) in turn
            for name in DIMENSIONS:
                assert f"{name} {shown(row[name])} \u00b1 {row['uncertainty'][name]:.2f}" in turn
            # A marker for each turn in each panel.
            page.wait_for_function(
                "count => document.querySelectorAll('#trajectory .points path').length == count",
                arg=3 * page.locator("#log li").count(),
            )
            assert page.get_by_label("Next turn").input_value() == ""
        assert turn.count("falling") == list(trend(expected[:1], expected[2]).values()).count("falling")
        page.get_by_text("How did your last turn feel?").click()
        page.get_by_role("button", name="Rate it").click()
        page.get_by_text("Ana, after 1 rating").wait_for()
        assert "by this speaker's ratings" in say(page, "Ana", "It rains.")
        page.get_by_role("button", name="Start anew").click()
        page.get_by_text("No turn yet").wait_for()
        page.locator("#trajectory").wait_for(state="hidden")
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
        page.locator("#reading .bar").first.wait_for()
        for name in DIMENSIONS:
            assert f"{name} {shown(row[name])}" in " ".join(page.locator("#reading").inner_text().split())
        assert in_words(row) in page.locator("#reading").inner_text()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == "Which words moved it?"
        page.keyboard.press("Enter")
        words = page.frame_locator("#words iframe").locator("body")
        assert "gone" in words.inner_text()


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
        page.get_by_role("button", name="Make a report").click()
        page.get_by_text("The report is ready").wait_for()
        with page.expect_download() as download:
            page.get_by_text("Download report.zip").click()
        with zipfile.ZipFile(download.value.path()) as packed:
            assert {"index.html", "scores.csv", "scores.xlsx", "methods.md"} <= set(packed.namelist())
            assert "Good morning." in packed.read("index.html").decode()
    assert [row["id"] for row in rows] == ["1", "2", "'=3"] and "empty" in rows[1]["error"]
    for row in (rows[0], rows[2]):
        assert float(row["arousal"]) == pytest.approx(pad(row["said"])["arousal"], abs=6e-5)


def test_a_phone_s_width_needs_no_sideways_scrolling(browser: Any, address: str, tmp_path: Path) -> None:
    with visitor(browser, address, width=390, has_touch=True) as page:
        assert fits(page)
        say(page, "n" * 40, "so " + "x" * 3000)
        figure = page.locator("#trajectory .js-plotly-plot")
        figure.wait_for()
        assert fits(page)
        box = figure.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        # The newest turn and its figure are in sight together.
        page.evaluate("window.scrollTo(0, 0)")
        assert page.locator("#log").bounding_box()["y"] >= 0
        assert figure.bounding_box()["y"] + figure.bounding_box()["height"] <= 844
        page.get_by_role("tab", name="One text").click()
        page.get_by_role("button", name="Read this text").click()
        page.locator("#reading .bar").first.wait_for()
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


@pytest.mark.nightly
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
