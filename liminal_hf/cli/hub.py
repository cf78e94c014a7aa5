"""`liminal push`, `liminal verify` and `liminal export`: a checkpoint to the Hub, or into a folder."""

from pathlib import Path
from typing import Annotated

import typer

from ..modeling.errors import LiminalError
from .shared import Checkpoint, find_checkpoint, recipe_of


def push(
    checkpoint: Checkpoint,
    repo_id: Annotated[
        str | None, typer.Argument(metavar="OWNER/NAME", help="Where to; default what the run's recipe says.")
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Whether a new repository is private.", show_default=False)
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to upload to.", show_default=False)] = None,
    head_only: Annotated[bool, typer.Option("--head-only", help="Leave the encoder out: a few MB.")] = False,
    handler: Annotated[bool, typer.Option("--handler", help="Also write what an Inference Endpoint needs.")] = False,
) -> None:
    """Upload a checkpoint to the Hub, reload it without this package, and compare."""
    from ..export.hub import push as upload

    if repo_id is None:
        recipe = recipe_of(checkpoint)
        if recipe is not None:
            repo_id, private = recipe.hub.repo_id, recipe.hub.private if private is None else private
        if repo_id is None:
            raise LiminalError(
                f"Where to? Type: liminal push {checkpoint} OWNER/NAME (or set hub.repo_id in the recipe)"
            )
    result = upload(checkpoint, repo_id, private=private, revision=revision, head_only=head_only, handler=handler)
    print(result.url)


def verify(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint's folder, or a Hub id.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.", show_default=False)] = None,
) -> None:
    """Check that the weights are those whose sha256 the card names."""
    from ..export.hub import verify_weights

    for name, digest in verify_weights(checkpoint, revision=revision).items():
        print(f"{digest}  {name}: as the card says")


def export(
    checkpoint: Checkpoint,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; it must be empty or new.")],
    head_only: Annotated[bool, typer.Option("--head-only", help="Leave the encoder out: a few MB.")] = False,
    handler: Annotated[bool, typer.Option("--handler", help="Also write what an Inference Endpoint needs.")] = False,
    form: Annotated[str, typer.Option("--format", help='"hub", or "onnx".')] = "hub",
    int8: Annotated[bool, typer.Option("--int8", help="ONNX: weights of 8 bits in the encoder.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="ONNX: a memory goes in and comes back.")] = False,
    person: Annotated[bool, typer.Option("--person", help="ONNX: also person.onnx, for persons who rate.")] = False,
) -> None:
    """Write the folder that `push` would upload (weights, code, tokenizer, card), or an ONNX model."""
    from ..export.checkpoint import open_checkpoint
    from ..export.repository import write_repository

    if form not in ("hub", "onnx"):
        raise LiminalError(f"--format is hub or onnx, got {form!r}.")
    if (form == "hub" and (int8 or memory or person)) or (form == "onnx" and (head_only or handler)):
        raise LiminalError(
            "--int8, --memory and --person go with --format onnx, --head-only and --handler with --format hub."
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise LiminalError(f"{output} is not an empty folder. Give another one: -o FOLDER")
    if form == "onnx":
        from ..export.onnx import export_onnx

        print(export_onnx(find_checkpoint(checkpoint), output, memory=memory, quantize="int8" if int8 else None))
        if person:
            from ..export.onnx_person import export_person

            print(export_person(output))
        return
    write_repository(open_checkpoint(checkpoint), output, head_only=head_only, handler=handler)
    print(output)
