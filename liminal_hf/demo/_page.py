"""The page as gradio's components, and the server that shows it."""

import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..modeling.errors import LiminalError
from ._reader import ENDINGS, MAX_BYTES, MAX_ROWS, Conversation, Reader, columns_of
from ._view import (
    INTRODUCTION,
    STYLE,
    cell_text,
    note_html,
    reading_html,
    trajectory_plot,
    turns_html,
    words_html,
)

if TYPE_CHECKING:
    from gradio import Blocks

_HOUR = 3600
_PREVIEW = 8
_EXAMPLES = ["What a lovely surprise!", "I cried after the meeting and nobody noticed.", "The report has forty pages."]


def build(pipeline: Any) -> "Blocks":  # noqa: C901  (the page from top to bottom; its events are functions inside)
    """The page as gradio's `Blocks`; `launch` shows it.

    Args:
        pipeline: a `pipeline("pad-regression")` of a model with an encoder.

    Raises:
        ImportError: gradio or plotly is missing.
    """
    gr = _gradio()
    reader = Reader(pipeline)
    targets, config = reader.targets, pipeline.model.config
    trained = [name for name, is_trained in zip(targets, config.trained_targets, strict=True) if is_trained]
    to_the_last_turn = (
        "() => { const log = document.querySelector('#log [role=log]'); log.scrollTop = log.scrollHeight; }"
    )
    private = {"api_visibility": "private", "show_progress": "minimal"}

    def for_clients(function: Callable[..., Any]) -> Callable[..., Any]:
        """What people can put right reaches the client as the sentence that it is."""

        @wraps(function)
        def answer(*inputs: Any) -> Any:
            try:
                return function(*inputs)
            except (ValueError, ImportError) as error:
                raise gr.Error(str(error), print_exception=False) from None

        return answer

    def show_turn(text: str, speaker: str, conversation: Conversation) -> tuple[Any, ...]:
        try:
            conversation = reader.say(conversation, text, speaker)
        except ValueError as error:
            return conversation, gr.skip(), gr.skip(), gr.skip(), note_html(str(error), wrong=True)
        plot = trajectory_plot(conversation, targets, config.label_range)
        return conversation, "", turns_html(conversation), gr.Plot(plot, visible=plot is not None), ""

    def show_rating(speaker: str, conversation: Conversation, *values: float) -> tuple[Any, ...]:
        rating = " ".join(f"{name}={value}" for name, value in zip(trained, values, strict=True))
        try:
            conversation, known = reader.rate(conversation, speaker, rating)
        except ValueError as error:
            return conversation, note_html(str(error), wrong=True)
        return conversation, note_html(known)

    def show_nothing() -> tuple[Any, ...]:
        nothing = gr.Plot(None, visible=False)
        return Conversation(), turns_html(Conversation()), nothing, note_html("A new conversation.")

    def show_reading(text: str) -> str:
        try:
            row = reader.read(text)
        except ValueError as error:
            return note_html(str(error), wrong=True)
        return reading_html(row, config)

    def show_words(text: str) -> str:
        try:
            return words_html(reader.explain(text))
        except ValueError as error:
            return note_html(str(error), wrong=True)

    def show_columns(path: str | None) -> tuple[Any, ...]:
        if path is None:
            return gr.Dropdown(choices=[], value=None), gr.Dropdown(choices=[], value=None), ""
        try:
            names, likely = columns_of(path)
        except (ValueError, ImportError) as error:
            nothing = gr.Dropdown(choices=[], value=None)
            return nothing, nothing, note_html(str(error), wrong=True)
        return gr.Dropdown(choices=names, value=likely), gr.Dropdown(choices=names, value=None), ""

    def show_table(path: str | None, column: str | None, progress: Any = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        try:
            if path is None:
                raise LiminalError("There is no file yet. Choose a table first.")
            scored = reader.score(path, column or "text", lambda share: progress(share, desc="Reading"))
        except (ValueError, ImportError) as error:
            return gr.DownloadButton(value=None, interactive=False), gr.skip(), note_html(str(error), wrong=True)
        names = [
            name for name in (column, *targets, f"verdict_{targets[0]}", "error") if name in scored.columns.column_names
        ]
        first = scored.columns.select(names).slice(0, _PREVIEW)
        cells = [[cell_text(value) for value in row.values()] for row in first.to_pylist()]
        preview = gr.Dataframe({"headers": names, "data": cells}, visible=True)
        button = gr.DownloadButton(f"Download predictions{scored.ending}", value=saved(scored.save), interactive=True)
        return button, preview, note_html(str(scored))

    def saved(write: Callable[[str], Path]) -> str:
        # Straight into gradio's cache, which it clears by the hour.
        with tempfile.TemporaryDirectory() as folder:
            path = write(folder)
            return gr.processing_utils.save_bytes_to_cache(path.read_bytes(), path.name, result.GRADIO_CACHE)

    def make_report(
        path: str | None,
        column: str | None,
        group: str | None,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        try:
            if path is None:
                raise LiminalError("There is no file yet. Choose a table first.")

            def write(folder: str) -> Path:
                return reader.report(
                    path, column or "text", group or None, folder, lambda share: progress(share, desc="Reading")
                )

            button = gr.DownloadButton("Download report.zip", value=saved(write), interactive=True)
        except (ValueError, ImportError) as error:
            return gr.DownloadButton(value=None, interactive=False), note_html(str(error), wrong=True)
        return button, note_html("The report is ready: open index.html in it.")

    def score(path: str, column: str) -> tuple[str, dict[str, int]]:
        scored = reader.score(path, column)
        counts = {"rows": len(scored.columns), "errors": scored.errors, "long": scored.long}
        return saved(scored.save), counts

    def say(text: str, speaker: str, conversation: Conversation) -> tuple[Conversation, dict[str, Any]]:
        conversation = reader.say(conversation, text, speaker)
        return conversation, conversation.rows[-1]

    with gr.Blocks(title="How a text feels", analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as page:
        gr.HTML(INTRODUCTION)
        with gr.Tab("Conversation"):
            session = gr.State(Conversation(), time_to_live=6 * _HOUR)
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    log = gr.HTML(turns_html(Conversation()), elem_id="log")
                with gr.Column(scale=5, min_width=300):
                    trajectory = gr.Plot(visible=False, show_label=False, elem_id="trajectory")
            text = gr.Textbox(label="Next turn", placeholder="Say something", max_lines=6, elem_id="turn")
            with gr.Row():
                send = gr.Button("Read this turn", variant="primary", size="md", min_width=120)
                new = gr.Button("Start anew", size="md", min_width=120)
            note = gr.HTML(elem_id="note")
            with gr.Accordion("How did your last turn feel?", open=False), gr.Row():
                low, high = config.label_range
                felt = [gr.Slider(low, high, (low + high) / 2, step=(high - low) / 40, label=name) for name in trained]
                rated = gr.Button("Rate it", size="md", min_width=120)
            speaker = gr.Textbox("you", label="Who speaks", info="Each speaker is remembered apart.")
            gr.Examples(_EXAMPLES, text, label="Such as")
            gr.on(
                [send.click, text.submit],
                show_turn,
                [text, speaker, session],
                [session, text, log, trajectory, note],
                **private,
            ).then(None, js=to_the_last_turn)
            rated.click(show_rating, [speaker, session, *felt], [session, note], **private)
            new.click(show_nothing, None, [session, log, trajectory, note], **private)
        with gr.Tab("One text"):
            one = gr.Textbox("What a lovely surprise!", label="Text", lines=3, max_lines=12, elem_id="one")
            with gr.Row():
                go = gr.Button("Read this text", variant="primary", size="md", min_width=120)
                why = gr.Button("Which words moved it?", size="md", min_width=120)
            reading, words = gr.HTML(elem_id="reading"), gr.HTML(elem_id="words")
            gr.Examples(_EXAMPLES, one, label="Such as")
            read_now = gr.on([go.click, one.submit], show_reading, one, reading, **private)
            read_now.then(lambda: "", None, words, **private)
            why.click(show_words, one, words, **private)
        with gr.Tab("A table"):
            gr.Markdown(
                f"At most {MAX_ROWS:,} rows: CSV, TSV, Excel, JSON lines, Parquet or SPSS. The table comes back as it "
                "came, with the numbers of each text; a row that can't be read says why in the column *error*."
            )
            file = gr.File(label="Table", file_types=list(ENDINGS), type="filepath", height=140)
            column = gr.Dropdown([], label="Column with the texts", info="Choose a file first.", elem_id="column")
            read_all = gr.Button("Read the table", variant="primary")
            summary = gr.HTML(elem_id="summary")
            result = gr.DownloadButton("Download predictions", interactive=False)
            preview = gr.Dataframe(
                visible=False, interactive=False, wrap=True, label="The first rows", elem_id="preview"
            )
            group = gr.Dropdown([], label="Column with groups (may stay empty)", elem_id="group")
            describe = gr.Button("Make a report")
            told = gr.HTML(elem_id="told")
            document = gr.DownloadButton("Download report.zip", interactive=False)
            file.change(show_columns, file, [column, group, summary], **private)
            read_all.click(show_table, [file, column], [result, preview, summary], **private)
            describe.click(make_report, [file, column, group], [document, told], **private)

        # For gradio_client alone: what it says and gets is not shown on the page.
        heard, who = gr.Textbox(visible=False), gr.Textbox("you", visible=False)
        sent, which = gr.File(visible=False, type="filepath"), gr.Textbox("text", visible=False)
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
        ImportError: gradio or plotly is missing.
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
        import plotly  # noqa: F401 (the figure of a conversation needs it)
    except ImportError:
        raise ImportError("The page needs gradio and plotly: pip install 'liminal_hf[demo]'") from None
    return gradio
