"""A page that runs in the browser: its size, how long it takes, and how far its numbers are from Python's.

Requires liminal_hf with its extras onnx and dev, `chromium`, onnxruntime-web (by npm, or --runtime) and EmoBank
(`LIMINAL_DATA_DIR`).

    python scripts/static_page.py [--runtime FOLDER]

Browser and Python read the same sentences in turn, so that a busy machine slows both.
"""

import argparse
import functools
import http.server
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from research.report import RESULTS, Array, line, mean_r, rounded, save

import liminal_hf
from liminal_hf.data import load_emobank
from liminal_hf.demo.static_page import RUNTIME, write_static
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring.scorer import Scorer, checkpoint_identity, load, onnx_folder
from liminal_hf.training.run_folder import hardware

TEXTS, AT_ONCE = 500, 50
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
COLUMNS = [f"{prefix}{name}" for prefix in ("", "uncertainty_", "low_", "high_") for name in DIMENSIONS] + ["in_domain"]
READ = """async (texts) => {
    window.reader ??= await (await import("./engine.js")).load();
    const { columnsOf } = await import("./table.js");
    const started = performance.now();
    const rows = [];
    for (const text of texts) rows.push(Object.fromEntries(columnsOf(await reader.read(text), reader.about)));
    return { rows, seconds: (performance.now() - started) / 1000 };
}"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def sizes(site: Path) -> dict[str, int]:
    """Bytes of each part of the page."""
    parts = {"model": site / "model.onnx", "runtime": site / "runtime", "licences": site / "licences"}
    found = {
        name: sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
        for name, path in parts.items()
    }
    total = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    return {**found, "page": total - sum(found.values()), "all": total}


def beside(site: Path, exported: Path, target: Path) -> Path:
    """The page with another model."""
    shutil.copytree(site, target)
    shutil.copy(exported / "model.onnx", target)
    about = json.loads((site / "page.json").read_text(encoding="utf-8"))
    about["model_size"] = (target / "model.onnx").stat().st_size
    (target / "page.json").write_text(json.dumps(about), encoding="utf-8")
    return target


def difference(one: Array, other: Array) -> dict[str, float]:
    """How far two tables of the same columns are apart."""
    gaps = np.abs(one - other)
    return {
        "largest": float(gaps.max()),
        "root mean square, pleasure": float(np.sqrt((gaps[:, 0] ** 2).mean())),
        "texts above .001": int((gaps[:, : 4 * len(DIMENSIONS)].max(axis=1) > 1e-3).sum()),
    }


def measure(runtime: Path | None, folder: Path) -> dict[str, Any]:
    """The report."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise LiminalError("The page is measured in chromium: apt-get install chromium")
    site = write_static(folder / "site", runtime=runtime)
    model, tokenizer = load(liminal_hf.DEFAULT_CHECKPOINT)
    identity = checkpoint_identity(model, tokenizer)
    exports = {int8: onnx_folder(model, identity, memory=False, int8=int8) for int8 in (False, True)}
    shutil.copytree(exports[False], folder / "small")
    shutil.copy(site / "model.onnx", folder / "small")
    scorers = {
        "torch": Scorer(model, tokenizer=tokenizer, threads=1),
        "int8": Scorer(model, "int8", tokenizer=tokenizer, threads=1),
        "the page's file": Scorer(folder / "small", tokenizer=tokenizer, threads=1),
    }
    pages = {"the page": site, "the page with int8": beside(site, exports[True], folder / "with-int8")}
    data = load_emobank()["validation"]
    texts, labels = data["text"][:TEXTS], np.array(data["labels"][:TEXTS])
    rows: dict[str, list[Any]] = {name: [] for name in (*scorers, *pages)}
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        tabs = {}
        with served(pages["the page"]) as first, served(pages["the page with int8"]) as second:
            for name, address in zip(pages, (first, second), strict=True):
                tab = browser.new_page()
                tab.on("request", lambda request: asked.append(request.url))
                tab.set_default_timeout(600_000)
                started = time.perf_counter()
                tab.goto(address)
                tab.locator("body[data-ready]").wait_for()
                seconds[f"{name}, to load"] = [time.perf_counter() - started]
                started = time.perf_counter()
                tab.get_by_role("button", name="Read this text").click()
                tab.locator("#reading .bar").first.wait_for()
                seconds[f"{name}, first answer"] = [time.perf_counter() - started]
                tab.evaluate(READ, texts[:8])
                tabs[name] = tab
            for scorer in scorers.values():
                scorer.score(texts[:8])
            for start in range(0, TEXTS, AT_ONCE):
                some = texts[start : start + AT_ONCE]
                for name, scorer in scorers.items():
                    started = time.perf_counter()
                    # One at a time, as the page reads.
                    rows[name] += [scorer.score([text]).to_pylist()[0] for text in some]
                    seconds[name].append(time.perf_counter() - started)
                for name, tab in tabs.items():
                    answer = tab.evaluate(READ, some)
                    rows[name] += answer["rows"]
                    seconds[name].append(answer["seconds"])
            elsewhere = sum(not url.startswith((first, second, "data:", "blob:")) for url in asked)
        version = browser.version
        browser.close()
    values = {name: np.array([[row[column] for column in COLUMNS] for row in some]) for name, some in rows.items()}
    pairs = [("the page", "the page's file"), ("the page with int8", "int8"), ("the page", "torch"), ("int8", "torch")]
    times = {
        name: float(np.median(parts)) / (AT_ONCE if name in rows else 1) for name, parts in seconds.items() if parts
    }
    ratios = np.array(seconds["the page"]) / np.array(seconds["int8"])
    verdicts = [
        sum(one[f"verdict_{name}"] != other[f"verdict_{name}"] for name in DIMENSIONS)
        for one, other in zip(rows["the page"], rows["the page's file"], strict=True)
    ]
    return {
        "bytes": sizes(site),
        "texts": TEXTS,
        "requests to other origins": elsewhere,
        "requests": len(asked),
        "seconds": times,
        "page against int8 in Python": [float(np.quantile(ratios, share)) for share in (0.5, 0.0, 1.0)],
        "differences": {f"{one} - {other}": difference(values[one], values[other]) for one, other in pairs},
        "other verdicts": int(sum(verdicts)),
        "mean r": {name: mean_r(values[name][:, : len(DIMENSIONS)], labels) for name in rows},
        "chromium": version,
        "runtime": RUNTIME,
    }


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    size, seconds = report["bytes"], report["seconds"]
    middle, low, high = report["page against int8 in Python"]
    lines = [line(["what", "measured"]), line(["---", "---"])]
    lines += [
        line([f"size, {name}", f"{size[name] / 1e6:.1f} MB"])
        for name in ("all", "model", "runtime", "licences", "page")
    ]
    lines += [
        line(["requests to other origins", str(report["requests to other origins"])]),
        line(["from the address to a page that is ready, over loopback", f"{seconds['the page, to load']:.1f} s"]),
        line(["first answer after that", f"{seconds['the page, first answer']:.2f} s"]),
        line(["a sentence in the browser, one thread", f"{1000 * seconds['the page']:.0f} ms"]),
        line(["times the `Scorer`'s int8, one core, in the same minute", f"{middle:.2f} ({low:.2f} to {high:.2f})"]),
        line(["verdicts other than Python's on the same file", f"{report['other verdicts']} of {3 * report['texts']}"]),
        "",
        line(["differences", "largest", "root mean square, pleasure", "texts with one above .001"]),
        line(["---"] * 4),
    ]
    names = {
        "the page - the page's file": "the page, and Python on the same file",
        "the page with int8 - int8": "the int8 export in the browser, and in Python",
        "the page - torch": "the page, and torch in float",
        "int8 - torch": "int8 in Python, and torch in float",
    }
    for key, title in names.items():
        found = report["differences"][key]
        small = found["largest"] < 1e-4
        largest = "below .0001" if small else f"{found['largest']:.4f}".lstrip("0")
        square = f"{found['root mean square, pleasure']:.4f}".lstrip("0")
        lines.append(line([title, largest, square, f"{found['texts above .001']} of {report['texts']}"]))
    shown = ", ".join(f"{name} {value:.4f}" for name, value in report["mean r"].items()).replace(" 0.", " .")
    lines += ["", f"Mean r on these {report['texts']} sentences of EmoBank's development split: {shown}.", ""]
    lines.append(
        f"`{report['command']}`; {report['machine']}, {report['load']:.1f} waiting for a core; Chromium "
        f"{report['chromium']}; {report['runtime']}."
    )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure the page that runs in the browser.")
    parser.add_argument("--runtime", type=Path, help="the unpacked npm package onnxruntime-web; default by npm")
    parser.add_argument("--results", type=Path, default=RESULTS, help="gets the tables (%(default)s)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.runtime, Path(folder))
    report = rounded(
        {"command": "python scripts/static_page.py", "machine": hardware(), "load": os.getloadavg()[0], **found}
    )
    save(given.results, "static_page", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
