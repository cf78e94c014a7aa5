"""The page that needs no server: a folder that any web server can send, where the model runs in the visitor's browser.

Requires the extra `onnx`, and once npm, which brings onnxruntime's build for browsers. The page is in `static/`: plain
HTML, CSS and JavaScript. All of its constants come from here, in page.json.
"""

import html
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from importlib.metadata import distribution
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from .. import DEFAULT_CHECKPOINT
from ..data import writing
from ..explaining import words
from ..export.model_card import inherited_fact
from ..export.onnx_small import shrink
from ..io import atomic_folder, cache_root, changed_files
from ..modeling import answers, emotions, sentences, texts
from ..modeling.errors import LiminalError
from ..modeling.provenance import read_facts
from ..modeling.windows import SHARED_ERROR
from ..scoring.onnx_runtime import MODEL_FILE
from ..scoring.scorer import checkpoint_identity, load, onnx_folder

LEVEL = 0.8
# The newest with which the page of the default checkpoint stays below 40 MB. Its files, and what they are called here:
# not every web server knows the ending .mjs.
RUNTIME = "onnxruntime-web@1.24.3"
RUNTIME_FILES = {
    "ort.wasm.min.mjs": "ort.js",
    "ort-wasm-simd-threaded.mjs": "ort-wasm.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm.wasm",
}
_DIGESTS = {
    "ort.wasm.min.mjs": "d5a6d7bc8ee587648fb3742dde8c0094d17cbd3822a68bbec8ddfcd4f2adb88e",
    "ort-wasm-simd-threaded.mjs": "5687566b1bc1c8cf628d76c2ddb16b2a3b81a7997273d4666564880495088e57",
}
# What Python calls whitespace, as JavaScript writes it.
_BLANKS = r"\s\x1c-\x1f\x85"
_STATIC = Path(__file__).parent / "static"
_HOW = f"""Type:
  npm pack {RUNTIME} && mkdir runtime && tar -xzf onnxruntime-web-*.tgz -C runtime
  liminal demo --static FOLDER --runtime runtime/package"""
_PAGE = """
# How a text feels

Pleasure, arousal and dominance of a text, of a long text sentence by sentence, or of each row of a CSV. The model runs
in the visitor's browser: nothing that is typed or opened leaves it. Any web server can send this folder, for example
`python -m http.server --directory .`; opened as a file, without one, a browser does not run it. Made by
`liminal demo --static`. `licences/` has the licences of all parts.
"""
_LICENCES = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="style.css"><title>Licences</title></head>
<body>
<h1>Licences</h1>
<ul>
{items}
</ul>
<p><a href="index.html">Back to the page</a></p>
</body>
</html>
"""


def write_static(
    folder: str | Path, checkpoint: str | Path = DEFAULT_CHECKPOINT, *, runtime: str | Path | None = None
) -> Path:
    """Writes the page, its model and the runtime into a folder.

    Args:
        folder: new or empty.
        checkpoint: folder or Hub id of a checkpoint whose encoder has a WordPiece tokenizer as BERT's.
        runtime: the folder of the unpacked npm package onnxruntime-web; None takes it from the cache, or by npm. Its
            files are the ones whose sha256 this module holds, or it is an error.

    Returns:
        The folder.

    Raises:
        LiminalError: the folder is not empty, the runtime is not to be had, or the page can't show this checkpoint.
        ImportError: the extra `onnx` is not installed.

    Example:
        >>> write_static("site", runtime="nowhere")
        Traceback (most recent call last):
        liminal_hf.modeling.errors.LiminalError: nowhere is not onnxruntime-web@1.24.3 ... Type:
        ...
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LiminalError(f"{folder} is not an empty folder. Give another one: liminal demo --static FOLDER")
    source = _runtime(None if runtime is None else Path(runtime))
    model, tokenizer = load(checkpoint)
    about, vocabulary = page_facts(model.config, tokenizer)
    exported = onnx_folder(model, checkpoint_identity(model, tokenizer), memory=False, int8=False)
    with atomic_folder(folder) as part:
        shutil.copytree(_STATIC, part, dirs_exist_ok=True)
        (part / "runtime").mkdir()
        for name, own in RUNTIME_FILES.items():
            shutil.copy(source / name, part / "runtime" / own)
        shrink(exported / MODEL_FILE, part / MODEL_FILE)
        about["model_size"] = (part / MODEL_FILE).stat().st_size
        _write(part / "page.json", json.dumps(about, ensure_ascii=False, separators=(",", ":")))
        _write(part / "vocabulary.txt", "\n".join(vocabulary))
        licence = inherited_fact(read_facts(checkpoint), "license")
        _write_licences(part, licence, exported)
        front: dict[str, Any] = {
            "title": "How a text feels",
            "emoji": "💓",
            "colorFrom": "blue",
            "colorTo": "red",
            "sdk": "static",
        }
        front |= {"app_file": "index.html", "pinned": False, **({"license": licence} if licence else {})}
        _write(part / "README.md", f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{_PAGE}")
    return folder


def page_facts(config: Any, tokenizer: Any) -> tuple[dict[str, Any], list[str]]:
    """What the page has to know of a model: the content of page.json, and the tokens in the order of their numbers.

    Args:
        config: a `LiminalConfig`.
        tokenizer: of its encoder.

    Raises:
        LiminalError: the tokenizer is none that the page has, or the model does not say how sure it is.

    Example:
        >>> from liminal_hf.scoring.scorer import load
        >>> model, tokenizer = load(DEFAULT_CHECKPOINT)
        >>> about, vocabulary = page_facts(model.config, tokenizer)
        >>> about["verdicts"][0], about["octants"]["111"], vocabulary[101]
        (('negative', 'neutral', 'positive'), 'exuberant', '[CLS]')
    """
    if not all(config.trained_targets) or config.residual_quantiles is None:
        raise LiminalError(
            "The page shows intervals, and this checkpoint has none for all of its targets. Give a calibrated one: "
            "liminal demo CHECKPOINT --static FOLDER"
        )
    about, vocabulary = _tokenizer_facts(tokenizer)
    points = {word: emotions.POSITIONS[word] for word in emotions.WORDS}
    placed = {
        word: [a + b * x for a, b, x in zip(emotions.OFFSET, emotions.SLOPE, point, strict=True)]
        for word, point in points.items()
    }
    ends = [answers.interval(0.0, 1.0, LEVEL, quantiles) for quantiles in config.residual_quantiles]
    facts = {
        "targets": config.targets,
        "label_range": config.label_range,
        "label_std": config.label_std,
        "neutral_zone": config.neutral_zone,
        "interval_ends": ends,
        "pad_indices": config.pad_indices,
        "max_length": texts.checked_max_length(None, config, tokenizer),
        "verdicts": [answers.verdict_names(name) for name in config.targets],
        "octants": {"".join(str(int(high)) for high in key): name for key, name in answers.OCTANTS.items()},
        "neutral": answers.NEUTRAL,
        "unclear": answers.UNCLEAR,
        "named_above": answers.NAMED_ABOVE,
        "shared_error": SHARED_ERROR,
        "emotions": {
            "words": {**placed, emotions.NEUTRAL: [0.0] * 3},
            "spread": emotions.SPREAD,
            "neutral_share": emotions.NEUTRAL_SHARE,
        },
        "errors": {"empty": "empty", "unreadable": texts.UNREADABLE, "not_finite": texts.NOT_FINITE},
        "blank_letters": "".join(sorted(texts._BLANK_LETTERS)),
        "formula": writing._FORMULA,
        "patterns": {"number": js_pattern(writing._NUMBER.pattern)},
        "sentences": _sentence_facts(),
        "words": {
            "negations": sorted(words.NEGATIONS),
            "between": sorted(words.BETWEEN),
            "most_between": words.MOST_BETWEEN,
            "no_spaces": _without_spaces(),
        },
        "tokenizer": about,
    }
    return facts, vocabulary


def js_pattern(pattern: str) -> str:
    r"""A regular expression of Python as JavaScript writes it, with the flag u.

    Example:
        >>> print(js_pattern(r"(?P<mark>[\"'])\w+"))
        (?<mark>["'])[\p{L}\p{N}_]+
    """
    pattern = pattern.replace("(?P<", "(?<").replace(r"\w", r"[\p{L}\p{N}_]").replace(r"\"", '"').replace(r"\'", "'")
    pattern = pattern.replace(r"\S", rf"[^{_BLANKS}]")
    # Inside of a class there is no class: there \s stays what JavaScript takes it for.
    return re.sub(r"\[(?:\\.|[^\]])*\]|\\s", lambda part: part[0] if part[0][0] == "[" else f"[{_BLANKS}]", pattern)


def _sentence_facts() -> dict[str, Any]:
    patterns = {
        name: js_pattern(getattr(sentences, f"_{name.upper()}").pattern)
        for name in ("mark", "next", "line", "list_item", "clause")
    }
    lists = {name: sorted(getattr(sentences, f"_{name.upper()}")) for name in ("titles", "numbered", "others")}
    return {
        **lists,
        "beginners": sorted(sentences._BEGINNERS),
        "patterns": patterns,
        "wide": sentences._WIDE,
        "joining": list(sentences._JOINING),
        "narrowest_wrap": sentences._NARROWEST_WRAP,
    }


def _tokenizer_facts(tokenizer: Any) -> tuple[dict[str, Any], list[str]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spec = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    kinds = [(spec.get(part) or {}).get("type") for part in ("model", "normalizer", "pre_tokenizer")]
    normal = spec.get("normalizer") or {}
    lowercase = bool(normal.get("lowercase"))
    strips = lowercase if normal.get("strip_accents") is None else normal["strip_accents"]
    is_usual = normal.get("clean_text") and normal.get("handle_chinese_chars") and strips == lowercase
    vocabulary = sorted(found := tokenizer.get_vocab(), key=found.__getitem__)
    if (
        kinds != ["WordPiece", "BertNormalizer", "BertPreTokenizer"]
        or not is_usual
        or len(found) != 1 + max(found.values())
    ):
        raise LiminalError(
            "The page reads with the WordPiece tokenizer of BERT and its kin, and this checkpoint's encoder has "
            "another one. liminal demo --export FOLDER writes a page with a server, for any encoder."
        )
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    at = whole.index(bare[0])
    about = {
        "prefix": whole[:at],
        "suffix": whole[at + len(bare) :],
        "special": tokenizer.all_special_ids,
        "added": [token["content"] for token in spec["added_tokens"]],
        "unknown": tokenizer.unk_token_id,
        "inside": spec["model"]["continuing_subword_prefix"],
        "longest": spec["model"]["max_input_chars_per_word"],
        "lowercase": lowercase,
    }
    return about, vocabulary


def _without_spaces() -> list[list[int]]:
    """First and last of each run of letters that are words of their own, see `explaining.words`."""
    codes = [
        code
        for code in range(sys.maxunicode + 1)
        if unicodedata.name(chr(code), "").startswith(words._NO_SPACES) and unicodedata.category(chr(code))[0] in "LN"
    ]
    runs = (list(run) for _, run in groupby(enumerate(codes), key=lambda pair: pair[1] - pair[0]))
    return [[run[0][1], run[-1][1]] for run in runs]


# ---- the runtime ----


def runtime_folder() -> Path:
    """The folder where the files of the runtime are kept, once npm has brought them.

    Example:
        >>> runtime_folder().name
        'onnxruntime-web-1.24.3'
    """
    return cache_root() / RUNTIME.replace("@", "-")


def _runtime(given: Path | None) -> Path:
    """A folder with the files of the runtime, each of them checked."""
    if given is not None:
        folder = given / "dist" if (given / "dist").is_dir() else given
        if wrong := changed_files(folder, _DIGESTS):
            raise LiminalError(
                f"{given} is not {RUNTIME} as npm has it: {', '.join(wrong)} is missing or has another sha256. {_HOW}"
            )
        return folder
    cached = runtime_folder()
    if changed_files(cached, _DIGESTS):
        _fetch_runtime(cached)
    return cached


def _fetch_runtime(target: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise LiminalError(
            f"The page needs {RUNTIME}, which npm brings, and there is no npm. Install Node.js, or fetch the package "
            f"on another machine. {_HOW}"
        )
    with tempfile.TemporaryDirectory() as place, atomic_folder(target) as part:
        command = [npm, "pack", RUNTIME, "--silent", "--pack-destination", place]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        packed = next(Path(place).glob("*.tgz"), None)
        if done.returncode or packed is None:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise LiminalError(f"npm did not bring {RUNTIME} ({said[-1] if said else 'it said nothing'}). {_HOW}")
        with tarfile.open(packed) as archive:
            for name in RUNTIME_FILES:
                content = archive.extractfile(f"package/dist/{name}")
                (part / name).write_bytes(content.read() if content else b"")
        if wrong := changed_files(part, _DIGESTS):
            raise LiminalError(f"What npm brought as {RUNTIME} has another sha256 than it should: {', '.join(wrong)}.")


# ---- licences ----


def _write_licences(folder: Path, licence: str | None, exported: Path) -> None:
    """Lists the licences of all parts, with their texts as far as they are at hand."""
    target = folder / "licences"
    target.mkdir()
    items: list[tuple[str, str | None]] = [
        (
            f"The weights of the model: {licence or 'see their card'}",
            _copied(exported / "README.md", target, "model.md"),
        )
    ]
    spec = find_spec("onnxruntime")
    package = Path(spec.origin).parent if spec and spec.origin else Path()
    items += [
        (f"onnxruntime-web ({RUNTIME}): MIT", _copied(package / "LICENSE", target, "onnxruntime.txt")),
        ("What onnxruntime contains", _copied(package / "ThirdPartyNotices.txt", target, "onnxruntime-notices.txt")),
    ]
    own = distribution("liminal_hf").read_text("licenses/LICENSE")
    if own:
        _write(target / "liminal_hf.txt", own)
    items.append(("This page: MIT", "liminal_hf.txt" if own else None))
    listed = (
        f'<li><a href="licences/{name}">{html.escape(what)}</a></li>' if name else f"<li>{html.escape(what)}</li>"
        for what, name in items
    )
    _write(folder / "licences.html", _LICENCES.format(items="\n".join(listed)))


def _copied(source: Path, folder: Path, name: str) -> str | None:
    if not source.is_file():
        return None
    shutil.copy(source, folder / name)
    return name


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
