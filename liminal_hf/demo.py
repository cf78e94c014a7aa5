"""The page of `liminal demo`: a conversation turn by turn, one text step by step, a CSV in and out.

Requires torch, transformers, gradio and matplotlib (`pip install 'liminal_hf[demo]'`). The caller brings a
`pipeline("pad-regression")`. Nothing is fetched from elsewhere and nothing is reported: no analytics, no fonts, no
history. What a visitor says is kept in that visitor's session alone, and forgotten with it.

The same functions answer `gradio_client`: `/say` (text, speaker), `/new`, `/read` (text), `/score` (CSV file, column).
"""

import base64
import csv
import html
import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

from . import figures
from .chat import sharp_turn, trend
from .modeling.configuration_liminal import DIMENSIONS
from .modeling.conversation import ConversationState
from .modeling.errors import LiminalError
from .modeling.texts import checked_text

if TYPE_CHECKING:
    from gradio import Blocks
    from matplotlib.figure import Figure

# What one visitor may ask of the machine that all share.
MAX_CHARACTERS, MAX_NAME, MAX_TURNS = 20_000, 40, 200
MAX_ROWS, MAX_BYTES = 5_000, 5_000_000
_AT_ONCE = 64
_HOUR = 3600
_DOTS_PER_INCH = 144
_WIDE, _NARROW, _PHONE = 6.4, 3.7, 640
# Where a spreadsheet takes a cell for a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBERS = (*DIMENSIONS, *(f"uncertainty_{name}" for name in DIMENSIONS), "confidence")
_ADDED = (*_NUMBERS, "octant", "error")
_ARROWS = {"rising": "\u25b2", "falling": "\u25bc"}

STYLE = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
footer .divider { display: none; }
.liminal { line-height: 1.45; overflow-wrap: anywhere; }
.liminal h1 { font-size: 1.5rem; margin: 0 0 .2rem; }
.liminal p { margin: .15rem 0; }
.liminal img { display: block; width: 100%; height: auto; background: white; border-radius: 6px; }
.liminal table, .liminal tr, .liminal th, .liminal td { border: 0 !important; }
.liminal table { border-collapse: collapse; margin: .2rem 0 .4rem; overflow-wrap: normal; }
.liminal th, .liminal td { padding: .15rem 0 .15rem 1.1rem; text-align: right; font-variant-numeric: tabular-nums; }
.liminal th:first-child { padding-left: 0; text-align: left; font-weight: 500; }
.liminal thead th { font-size: .85em; font-weight: 500; }
.liminal ol { list-style: none; margin: 0; padding: 0; }
.liminal li { margin: 0; padding: .5rem 0 .5rem .7rem; border-left: 4px solid transparent; }
.liminal li + li { border-top: 1px solid var(--border-color-primary); }
.liminal li.sharp { border-left-color: #D55E00; }
.liminal .value { display: inline-block; margin-right: 1rem; font-variant-numeric: tabular-nums; }
.liminal .mark { color: #A63F00; font-weight: 700; }
.dark .liminal .mark { color: #FF9A57; }
.liminal .faint { opacity: .78; }
.liminal .wrong { border-left: 4px solid #D55E00; padding: .3rem .6rem; }
.liminal[role=log] { max-height: 460px; overflow-y: auto; }
"""

INTRODUCTION = """<div class="liminal"><h1>How a text feels</h1>
<p>Pleasure, arousal and dominance as readers perceive them, from &minus;1 to 1. Most texts lie close to 0. It is an
estimate of how a text reads, no diagnosis of who wrote it.</p></div>"""
EMPTY = '<p class="faint">No turn yet. Type one below and press Enter.</p>'


# ---------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Conversation:
    """What one visitor's session holds; each turn makes a new one.

    Args:
        state: the memory after the last turn.
        rows: the pipeline's row of each turn, with `trend` and `sharp`, without memory.
        texts: what was said.
    """

    state: ConversationState = field(default_factory=ConversationState)
    rows: tuple[dict[str, Any], ...] = ()
    texts: tuple[str, ...] = ()


class Reader:
    """What the page asks of a `pipeline("pad-regression")`; any number of threads may ask at once.

    Args:
        pipeline: of a model with an encoder.

    Example:
        >>> from transformers import pipeline
        >>> import liminal_hf
        >>> reader = Reader(pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT))
        >>> conversation = reader.say(Conversation(), "What a lovely surprise!", "Ada")
        >>> conversation.rows[0]["speaker"], conversation.rows[0]["sharp"]
        ('Ada', False)
        >>> sorted(reader.read("Good morning."))[:4]
        ['arousal', 'confidence', 'confidences', 'cut']
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        # A fast tokenizer can't change its padding in one thread while another reads with it.
        self._lock = threading.Lock()

    def say(self, conversation: Conversation, text: str, speaker: str) -> Conversation:
        """The conversation after one more turn.

        Raises:
            ValueError: the text or the name can't be read, or the conversation is too long; a sentence for people.
        """
        text, speaker = self._text(text), _name(speaker)
        if len(conversation.rows) >= MAX_TURNS:
            raise ValueError(f"This page follows {MAX_TURNS} turns at most. Start a new conversation.")
        with self._lock:
            row = self.pipeline({"role": "user", "speaker": speaker, "content": text}, memory=conversation.state)
        if row["error"] is not None:
            raise LiminalError(f"The text can't be read: {row['error']}.")
        state = row.pop("memory")
        own = [earlier for earlier in conversation.rows if earlier["speaker"] == speaker]
        row |= {"trend": trend(own, row), "sharp": bool(own) and sharp_turn(own[-1], row)}
        return Conversation(state, (*conversation.rows, row), (*conversation.texts, text))

    def read(self, text: str) -> dict[str, Any]:
        """The pipeline's row of one text, and how it came about.

        Returns:
            The row, with `pad_trajectory` (K lists of three), `confidences` (K), `step_attentions` (K lists of K), each
            None where the head has none, and `cut`: how many tokens were left out at its end.

        Raises:
            ValueError: the text can't be read.
        """
        text, pipeline = self._text(text), self.pipeline
        with self._lock, torch.inference_mode():
            tokens = pipeline.preprocess(text)
            whole = len(pipeline.tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"])
            about = {name: tokens.pop(name) for name in ("truncated", "error")}
            output = pipeline.model(**{name: value.to(pipeline.device) for name, value in tokens.items()})
        output_of_row = {name: output[name] for name in ("logits", "uncertainty") if name in output}
        row = pipeline.postprocess({**output_of_row, **about})
        if row["error"] is not None:
            raise LiminalError(f"The text can't be read: {row['error']}.")
        for name in ("pad_trajectory", "confidences", "step_attentions"):
            row[name] = output[name][0].double().tolist() if output.get(name) is not None else None
        return {**row, "cut": whole - tokens["input_ids"].shape[1]}

    def score(self, content: bytes, column: str = "text", progress: Callable[[float], None] | None = None) -> "Scored":
        """A CSV with PAD columns added; see `Scored`.

        Args:
            content: of the file, UTF-8; separated by comma, semicolon or tab.
            column: with the texts. A file with a single column needs no name.
            progress: is told the share that is done.

        Raises:
            ValueError: the file is no CSV, too large, or lacks the column. A row that can't be read is no error: it has
                a sentence in the column `error` and no numbers.
        """
        header, rows, separator = _read_csv(content)
        place = _column(header, column)
        found: list[dict[str, Any]] = []
        for number, row in enumerate(rows, start=1):
            try:
                if len(row) != len(header):
                    raise ValueError(f"The row has {_count(len(row), 'cell')}, the first line {len(header)}.")
                self._text(row[place])
                found.append({})
            except ValueError as error:
                found.append({"error": str(error), "row": number})
        good = sorted((i for i, row in enumerate(found) if not row), key=lambda i: len(rows[i][place]))
        for start in range(0, len(good), _AT_ONCE):
            some = good[start : start + _AT_ONCE]
            with self._lock:
                read = self.pipeline([rows[i][place] for i in some], batch_size=32)
            for index, result in zip(some, read, strict=True):
                found[index] = result
            if progress is not None:
                progress((start + len(some)) / len(good))
        return Scored(_write_csv(header, rows, found, separator), len(rows), len(rows) - len(good))

    def _text(self, text: Any) -> str:
        if isinstance(text, str) and len(text) > MAX_CHARACTERS:
            raise ValueError(
                f"The text has {len(text):,} characters; this page takes {MAX_CHARACTERS:,} at most. Give it in parts."
            )
        return checked_text(text)


def _name(speaker: Any) -> str:
    name = checked_text(speaker, "The name of who speaks").strip()
    if len(name) > MAX_NAME:
        raise ValueError(f"The name of who speaks has {len(name):,} characters; {MAX_NAME} at most.")
    return name


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


# ---------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Scored:
    """A table with PAD.

    Args:
        content: the CSV, UTF-8 with a byte-order mark (which Excel needs), the given columns first. A given column that
            has the name of an added one is called `given_...`. Cells that a spreadsheet would run as a formula start
            with an apostrophe.
        rows: how many rows there are.
        errors: how many of them could not be read.
    """

    content: bytes
    rows: int
    errors: int

    def __str__(self) -> str:
        wrong = " The column error says what is wrong with the others." if self.errors else ""
        return f"{self.rows - self.errors:,} of {_count(self.rows, 'row')} read.{wrong}"


def _read_csv(content: bytes) -> tuple[list[str], list[list[str]], str]:
    """Header, rows and separator."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"The file has {len(content):,} bytes; this page takes {MAX_BYTES:,} at most.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"The file is not UTF-8 (line {line}). Save it as 'CSV UTF-8' and try again.") from None
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    csv.field_size_limit(max(csv.field_size_limit(), MAX_BYTES))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        # A line with nothing in it is no row.
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise ValueError(f"The file is no CSV that can be read (line {reader.line_num}: {error}).") from None
    if len(lines) < 2:
        raise ValueError("The file has no rows. The first line names the columns, each further line is a row.")
    if len(lines) - 1 > MAX_ROWS:
        raise ValueError(f"The file has {len(lines) - 1:,} rows; this page takes {MAX_ROWS:,} at most. Split it.")
    return lines[0], lines[1:], separator


def _column(header: Sequence[str], wanted: str | None) -> int:
    name = (wanted or "text").strip()
    for place, there in enumerate(header):
        if there.strip().lower() == name.lower():
            return place
    if len(header) == 1:
        return 0
    listed = ", ".join(_short(there, 30) for there in header[:12]) + (", ..." if len(header) > 12 else "")
    raise ValueError(f"The file has no column {_short(name, 40)!r}. Type the name of the one with the texts: {listed}")


def _write_csv(
    header: Sequence[str], rows: Sequence[Sequence[str]], found: Sequence[dict[str, Any]], separator: str
) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator)
    taken = {name.lower() for name in _ADDED}
    given = [f"given_{name}" if name.strip().lower() in taken else name for name in header]
    writer.writerow([*map(_harmless, given), *_ADDED])
    for row, result in zip(rows, found, strict=True):
        cells = [*row[: len(header)], *[""] * (len(header) - len(row))]
        values = {name: result.get(name) for name in (*DIMENSIONS, "confidence")}
        values |= {f"uncertainty_{name}": value for name, value in (result.get("uncertainty") or {}).items()}
        numbers = ["" if values.get(name) is None else f"{values[name]:.4f}" for name in _NUMBERS]
        writer.writerow([*map(_harmless, cells), *numbers, result.get("octant", ""), result.get("error", "")])
    return out.getvalue().encode("utf-8-sig")


def _harmless(cell: str) -> str:
    """The cell, with an apostrophe before what a spreadsheet would take for a formula."""
    if not cell.lstrip(" ").startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


# ---------------------------------------------------------------------------------------------------- what is shown


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def _shown(text: str, most: int = 600) -> str:
    """A stranger's text as HTML: escaped, of bounded length, and unable to turn the direction of what follows."""
    return f"<bdi>{html.escape(_short(text, most))}</bdi>"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _table(row: dict[str, Any]) -> str:
    """PAD of one row, a line per dimension, with what the model has of uncertainty and percentile."""
    doubts, places = row["uncertainty"], row["percentile"]
    heads = ["", "value", *(["give or take"] if doubts else []), *(["above"] if places else [])]
    lines = []
    for name in DIMENSIONS:
        cells = [f'<td data-name="{name}">{_signed(row[name])}</td>']
        if doubts:
            cells.append(f"<td>{doubts[name]:.2f}</td>")
        if places:
            cells.append(f"<td>{places[name]:.0f}%</td>")
        lines.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _line(row: dict[str, Any]) -> str:
    """PAD of one turn in a line that wraps."""
    parts = []
    for name in DIMENSIONS:
        doubt = f" \u00b1 {row['uncertainty'][name]:.2f}" if row["uncertainty"] else ""
        direction = row["trend"][name]
        moved = "" if direction == "steady" else f' <span aria-hidden="true">{_ARROWS[direction]}</span> {direction}'
        parts.append(f'{name} <b data-name="{name}">{_signed(row[name])}</b>{doubt}{moved}')
    return "".join(f'<span class="value">{part}</span> ' for part in parts)


def _verdict(row: dict[str, Any]) -> str:
    sure = "" if row["confidence"] is None else f", confidence {row['confidence']:.2f}"
    return f"<b>{row['octant']}</b>{sure}"


def _log(conversation: Conversation) -> str:
    """The turns as HTML, the newest last."""
    turns = []
    for row, text in zip(conversation.rows, conversation.texts, strict=True):
        mark = '<div class="mark">SHARP TURN: less pleasure, more arousal</div>' if row["sharp"] else ""
        said = f"<div><b>{row['turn'] + 1}. {_shown(row['speaker'])}</b> {_shown(text)}</div>"
        look = ' class="sharp"' if row["sharp"] else ""
        turns.append(f"<li{look}>{said}<div>{_line(row)}</div><div>{_verdict(row)}</div>{mark}</li>")
    listed = f"<ol>{''.join(turns)}</ol>" if turns else EMPTY
    return f'<div class="liminal" role="log" tabindex="0" aria-label="The turns so far">{listed}</div>'


def _note(text: str, wrong: bool = False) -> str:
    look = ' class="wrong" role="alert"' if wrong else ' class="faint" role="status"'
    return f'<div class="liminal"><p{look}>{html.escape(text)}</p></div>' if text else ""


def _picture(figure: "Figure", says: str) -> str:
    """A figure as an image in HTML, with words for those who can't see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<div class="liminal"><img src="data:image/png;base64,{data}" alt="{html.escape(says)}"></div>'


def _inches(pixels: Any) -> float:
    """The width of a figure for a window of so many pixels."""
    return _NARROW if isinstance(pixels, int | float) and 0 < pixels < _PHONE else _WIDE


def _trajectory(conversation: Conversation, pixels: Any) -> str:
    rows = conversation.rows
    if not rows:
        return ""
    doubts = [list(row["uncertainty"].values()) for row in rows if row["uncertainty"]]
    figure = figures.conversation_trajectory(
        [[row[name] for name in DIMENSIONS] for row in rows],
        doubts or None,
        speakers=[row["speaker"] for row in rows],
        sharp=[row["sharp"] for row in rows],
        width=_inches(pixels),
    )
    return _picture(figure, f"PAD over {_count(len(rows), 'turn')}; the numbers stand in the list of turns.")


def _reading(row: dict[str, Any], limit: int) -> str:
    cut = f"Only its first {limit} tokens were read; {row['cut']:,} more were left out." if row["cut"] > 0 else ""
    below = (
        ""
        if not row["percentile"]
        else '<p class="faint">Above: how many of the model\'s training texts it read as lower.</p>'
    )
    return f'<div class="liminal">{_table(row)}<p>{_verdict(row)}</p>{below}</div>{_note(cut)}'


def _steps(row: dict[str, Any], pixels: Any) -> str:
    if row["pad_trajectory"] is None:
        return ""
    doubt = list(row["uncertainty"].values()) if row["uncertainty"] else None
    figure = figures.refinement(row["pad_trajectory"], uncertainty=doubt, width=_inches(pixels))
    steps = len(row["pad_trajectory"])
    first, last = (", ".join(_signed(value) for value in row["pad_trajectory"][i]) for i in (0, -1))
    return _picture(figure, f"PAD after each of {steps} steps: {first} after the first, {last} after the last.")


# ---------------------------------------------------------------------------------------------------- the page


def build(pipeline: Any) -> "Blocks":
    """The page as gradio's `Blocks`; `launch` shows it.

    Args:
        pipeline: a `pipeline("pad-regression")` of a model with an encoder.

    Raises:
        ImportError: gradio or matplotlib is missing.
    """
    gr = _gradio()
    reader = Reader(pipeline)
    limit = pipeline.model.config.max_seq_length
    # The last input of what draws is the window's width, which only the browser knows.
    width_of_window = "(...given) => [...given.slice(0, -1), window.innerWidth]"
    to_the_last_turn = (
        "() => { const log = document.querySelector('#log [role=log]'); log.scrollTop = log.scrollHeight; }"
    )
    private = {"api_visibility": "private", "show_progress": "minimal"}

    def for_clients(function: Callable[..., Any]) -> Callable[..., Any]:
        """What people can mend reaches the client as the sentence that it is."""

        @wraps(function)
        def answer(*given: Any) -> Any:
            try:
                return function(*given)
            except ValueError as error:
                raise gr.Error(str(error), print_exception=False) from None

        return answer

    def show_turn(text: str, speaker: str, conversation: Conversation, pixels: Any) -> tuple[Any, ...]:
        try:
            conversation = reader.say(conversation, text, speaker)
        except ValueError as error:
            return conversation, gr.skip(), gr.skip(), gr.skip(), _note(str(error), wrong=True)
        return conversation, "", _log(conversation), _trajectory(conversation, pixels), ""

    def show_nothing() -> tuple[Any, ...]:
        return Conversation(), _log(Conversation()), "", _note("A new conversation.")

    def show_reading(text: str, pixels: Any) -> tuple[str, str]:
        try:
            row = reader.read(text)
        except ValueError as error:
            return _note(str(error), wrong=True), ""
        return _reading(row, limit), _steps(row, pixels)

    def show_table(file: bytes | None, column: str, progress: Any = gr.Progress()) -> tuple[Any, str]:  # noqa: B008
        try:
            if file is None:
                raise ValueError("There is no file yet. Choose a CSV first.")
            scored = reader.score(file, column, lambda share: progress(share, desc="Reading"))
        except ValueError as error:
            return gr.DownloadButton(value=None, interactive=False), _note(str(error), wrong=True)
        return gr.DownloadButton(value=kept(scored), interactive=True), _note(str(scored))

    def kept(scored: Scored) -> str:
        # Straight into gradio's cache, which it clears by the hour.
        return gr.processing_utils.save_bytes_to_cache(scored.content, "predictions.csv", result.GRADIO_CACHE)

    def score(file: bytes, column: str) -> tuple[str, dict[str, int]]:
        scored = reader.score(file, column)
        return kept(scored), {"rows": scored.rows, "errors": scored.errors}

    def say(text: str, speaker: str, conversation: Conversation) -> tuple[Conversation, dict[str, Any]]:
        conversation = reader.say(conversation, text, speaker)
        return conversation, conversation.rows[-1]

    with gr.Blocks(title="How a text feels", analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as page:
        gr.HTML(INTRODUCTION)
        pixels = gr.Number(visible=False)
        with gr.Tab("Conversation"):
            session = gr.State(Conversation(), time_to_live=6 * _HOUR)
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    log = gr.HTML(_log(Conversation()), elem_id="log")
                    text = gr.Textbox(label="Next turn", placeholder="Say something", max_lines=6, elem_id="turn")
                    speaker = gr.Textbox("you", label="Who speaks", info="Each speaker is remembered apart.")
                    with gr.Row():
                        send = gr.Button("Read this turn", variant="primary", size="md", min_width=120)
                        new = gr.Button("Start anew", size="md", min_width=120)
                    note = gr.HTML(elem_id="note")
                with gr.Column(scale=5, min_width=300):
                    trajectory = gr.HTML(elem_id="trajectory")
            gr.on(
                [send.click, text.submit],
                show_turn,
                [text, speaker, session, pixels],
                [session, text, log, trajectory, note],
                js=width_of_window,
                **private,
            ).then(None, js=to_the_last_turn)
            new.click(show_nothing, None, [session, log, trajectory, note], **private)
        with gr.Tab("One text"), gr.Row():
            with gr.Column(scale=4, min_width=300):
                one = gr.Textbox("What a lovely surprise!", label="Text", lines=4, max_lines=12, elem_id="one")
                go = gr.Button("Read this text", variant="primary")
                reading = gr.HTML(elem_id="reading")
            with gr.Column(scale=5, min_width=300):
                steps = gr.HTML(elem_id="steps")
            gr.on([go.click, one.submit], show_reading, [one, pixels], [reading, steps], js=width_of_window, **private)
        with gr.Tab("A table"):
            gr.HTML(
                f'<div class="liminal"><p>A CSV of at most {MAX_ROWS:,} rows; its first line names the columns. It '
                "comes back with pleasure, arousal, dominance, their uncertainties and octant; a row that can't be "
                "read says why in the column <i>error</i>.</p></div>"
            )
            file = gr.File(label="CSV file", file_types=[".csv", ".tsv", ".txt"], type="binary", height=140)
            column = gr.Textbox("text", label="Column with the texts")
            read_all = gr.Button("Read the table", variant="primary")
            summary = gr.HTML(elem_id="summary")
            result = gr.DownloadButton("Download predictions.csv", interactive=False)
            read_all.click(show_table, [file, column], [result, summary], **private)

        # For gradio_client alone: what it says and gets is not shown on the page.
        heard, who = gr.Textbox(visible=False), gr.Textbox("you", visible=False)
        sent, which = gr.File(visible=False, type="binary"), gr.Textbox("text", visible=False)
        answer, table = gr.JSON(label="answer", visible=False), gr.File(label="table", visible=False)
        gr.on([], for_clients(say), [heard, who, session], [session, answer], api_name="say")
        gr.on([], Conversation, None, [session], api_name="new")
        gr.on([], for_clients(reader.read), [heard], [answer], api_name="read")
        gr.on([], for_clients(score), [sent, which], [table, answer], api_name="score")
    return page


def launch(pipeline: Any, *, host: str | None = None, port: int | None = None, block: bool = True) -> Any:
    """Shows the page until Ctrl-C.

    Args:
        pipeline: a `pipeline("pad-regression")`.
        host: to listen on; None is this machine alone, or what `GRADIO_SERVER_NAME` says (as on a Space).
        port: None takes a free one from 7860 on.
        block: wait for Ctrl-C; otherwise the page is returned, and `.close()` ends it.

    Raises:
        OSError: the port is taken.
        ImportError: gradio or matplotlib is missing.
    """
    gr = _gradio()
    page = build(pipeline)
    # System fonts, so that none is fetched; and colours with enough contrast to read.
    theme = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        input_placeholder_color="*neutral_500",
    )
    _, address, _ = page.queue(max_size=256, api_open=False).launch(
        server_name=host,
        server_port=port,
        theme=theme,
        css=STYLE,
        footer_links=["api"],
        # What visitors type is theirs: not even their browser keeps it.
        run_history=False,
        enable_monitoring=False,
        max_file_size=4 * MAX_BYTES,
        state_session_capacity=1000,
        ssr_mode=False,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"The page is at {address} (Ctrl-C ends it).", flush=True)
    if block:
        page.block_thread()
    return page


def _gradio() -> Any:
    try:
        import gradio
        import matplotlib  # noqa: F401 (the figures need it)
    except ImportError:
        raise ImportError("The page needs gradio and matplotlib: pip install 'liminal_hf[demo]'") from None
    return gradio
