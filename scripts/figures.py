"""Redraws what shows the default checkpoint: the figures in `scripts/results/`, the page's screenshot, the notebook.

Requires liminal_hf with the extras `plot` and `offline`; for the screenshot `demo`, playwright and a chromium of the
system, for the notebook nbclient and ipykernel. Reads EmoBank (`LIMINAL_DATA_DIR`). After a change of the checkpoint:

    python scripts/figures.py                 # all of it, two minutes
    python scripts/figures.py reliability page

Each figure is a `liminal` command, which is printed; what comes out is reduced to few colours, so that it stays small.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import liminal_hf
from liminal_hf.cli import main as liminal
from liminal_hf.figures import write_predictions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "scripts" / "results"
WORK = ROOT / "runs" / "figures"
TALK = (
    ("Ana", "I found your letter today, what a lovely surprise!"),
    ("Ben", "I hoped you would like it."),
    ("Ana", "Shall we have dinner on Friday?"),
    ("Ben", "Oh no, I forgot. I have to work on Friday."),
    ("Ana", "You forgot our date again, and I am furious!"),
    ("Ben", "I am so sorry. Please, let me make it up to you."),
    ("Ana", "Well. Bring flowers."),
)
# Name of the figure -> kind of `liminal plot`; all from the predictions on EmoBank's test split.
PLOTS = {
    "reliability": "reliability",
    "predicted-vs-gold": "predicted-vs-gold",
    "plane": "plane",
    "steps": "steps-curve",
}


def run(*arguments: str) -> None:
    """One command, printed as one would type it."""
    print("liminal", *(part.replace(f"{ROOT}/", "") for part in arguments), flush=True)
    try:
        liminal([part.replace(f"{ROOT}/", "") for part in arguments])
    except SystemExit as end:
        if end.code:
            raise


def shrink(path: Path, width: int = 1200) -> None:
    """A picture of at most so many pixels across and of 128 colours."""
    from PIL import Image

    with Image.open(path) as image:
        picture = image.convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(128, kmeans=4, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"  {path.name}: {path.stat().st_size / 1024:.0f} KB")


def draw(name: str) -> None:
    """A figure of the predictions on EmoBank's test split."""
    predictions = WORK / "emobank-test.jsonl"
    if not predictions.is_file():
        run("evaluate", liminal_hf.DEFAULT_CHECKPOINT, "--predictions", str(predictions))
    run("plot", PLOTS[name], str(predictions), "-o", str(RESULTS / f"{name}.png"))
    shrink(RESULTS / f"{name}.png")


def conversation() -> None:
    """The trajectory of a short conversation of two, read with memory."""
    from transformers import pipeline

    pad = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)
    rows = pad([{"role": "user", "speaker": speaker, "content": text} for speaker, text in TALK])
    source = write_predictions(
        WORK / "conversation.jsonl",
        [[row[name] for name in liminal_hf.DIMENSIONS] for row in rows],
        uncertainty=[list(row["uncertainty"].values()) for row in rows],
        text=[text for _, text in TALK],
        speaker=[speaker for speaker, _ in TALK],
        turn=[row["turn"] for row in rows],
    )
    run("plot", "conversation", str(source), "-o", str(RESULTS / "conversation.png"))
    shrink(RESULTS / "conversation.png")


def page() -> None:
    """A screenshot of `liminal demo` after the same conversation, in a headless Chromium."""
    from playwright.sync_api import sync_playwright
    from transformers import pipeline

    from liminal_hf.demo import launch

    browser = shutil.which("chromium")
    if browser is None:
        raise SystemExit("The screenshot needs chromium: apt-get install chromium")
    shown = launch(pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT), block=False)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=flags)
        view = chromium.new_page(viewport={"width": 1180, "height": 940})
        view.set_default_timeout(120_000)
        view.goto(shown.local_url)
        for number, (speaker, text) in enumerate(TALK[:5], start=1):
            view.get_by_label("Who speaks").fill(speaker)
            view.get_by_label("Next turn").fill(text)
            view.get_by_label("Next turn").press("Enter")
            view.wait_for_function(
                "number => document.querySelectorAll('#trajectory .points path').length == 3 * number", arg=number
            )
        view.wait_for_timeout(1500)
        view.screenshot(path=RESULTS / "page.png")
        chromium.close()
    shown.close()
    shrink(RESULTS / "page.png")


def tour() -> None:
    """Runs the notebook and keeps its outputs."""
    import nbformat
    from nbclient import NotebookClient

    path = ROOT / "scripts" / "tour.ipynb"
    notebook = nbformat.read(path, as_version=4)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": folder}}).execute()
    nbformat.write(notebook, path)
    print(f"  {path.name}: {path.stat().st_size / 1024:.0f} KB")


ALL: dict[str, Callable[[], None]] = {
    **{name: partial(draw, name) for name in PLOTS},
    "conversation": conversation,
    "page": page,
    "tour": tour,
}


def main(arguments: list[str] | None = None) -> int:
    """Redraws what is named, or everything."""
    parser = argparse.ArgumentParser(description="Redraws what shows the default checkpoint.")
    parser.add_argument("names", nargs="*", help=f"Which; default all: {', '.join(ALL)}.")
    names = parser.parse_args(arguments).names or list(ALL)
    unknown = [name for name in names if name not in ALL]
    if unknown:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(ALL)}")
    os.chdir(ROOT)
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    for name in names:
        ALL[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
