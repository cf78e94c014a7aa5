"""Turns weights of the original LIMINAL Heartbeat (v1, v2, v3, v4, v6) into a checkpoint of ours, and proves parity.

Requires liminal_hf. Weights are read from safetensors only, because a `.pt` file is a pickle and can run code.

    python scripts/convert_neurolab_to_hf.py WEIGHTS.safetensors -o FOLDER
    python scripts/convert_neurolab_to_hf.py --check tests/golden

A parity file holds the original's weights (`weights/<name>`) and, computed by its own code in float64, the inputs and
outputs of several turns in a row (`<case>/turn<t>/in/<name>`, `<case>/turn<t>/out/<name>`). `--check` runs every file
of a folder through the classes that training uses and ends with status 1 if anything differs by more than 1e-10.
"""

import argparse
import re
import sys
from collections import defaultdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError, safe_open
from torch import Tensor

from liminal_hf import HEADS, Head, HeadInput, HeadOutput, LiminalConfig, LiminalForPADRegression
from liminal_hf.modeling.heads import HistoryAttention

TOLERANCE = 1e-10
VARIANTS = ("v1", "v2", "v3", "v4", "v6")
# The original's modules and ours. The original nests two of its readouts in a module of their own.
MODULES = {
    "ln_latent": "ln_latent",
    "latent": "latent",
    "ln_z": "ln_z",
    "affect_proj": "affect_proj",
    "affect_gate": "affect_gate",
    "attn_core": "attn_core",
    "ln_answer": "ln_answer",
    "answer": "answer",
    "pad_head.fc": "pad_head",
    "rinse.fc": "rinse",
}
# What our state dicts hold beyond the original's: v1 and v2 were published without any readout of PAD.
ADDED = {"v1": {"readout.weight", "readout.bias"}, "v2": {"readout.weight", "readout.bias"}}
# Outputs that the original gives without the batch dimension.
UNBATCHED = {"confidences", "rinse", "memory"}
_VECTOR = re.compile(r"(?P<case>[^/]+)/turn(?P<turn>\d+)/(?P<side>in|out)/(?P<name>\w+)")


class ConversionError(Exception):
    """A file that can't be converted or checked; the message says why and what to do."""


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    if not path.is_file():
        raise ConversionError(f"There is no file {path}.")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no dict)
    except SafetensorError as error:
        raise ConversionError(
            f"{path} is not a safetensors file ({error}). A .pt file is a pickle, which can run code, and is not read "
            "here. In a place where you trust it, load its state dict and write it with safetensors.torch.save_file."
        ) from error


def rename(name: str) -> str:
    """Our name of one of the original's parameters.

    Example:
        >>> rename("pad_head.fc.0.weight")
        'pad_head.0.weight'
    """
    for original, ours in MODULES.items():
        if name.startswith(original + "."):
            return ours + name[len(original) :]
    raise ConversionError(f"{name!r} is no parameter of the original. Its modules: {', '.join(MODULES)}.")


def find_variant(names: set[str], outputs: set[str]) -> str | None:
    """The variant that has parameters of these names and, where known, these outputs; None if two have the same."""
    modules = {name.split(".")[0] for name in names}
    if "rinse" in modules:
        return "v4"
    if "pad_head" in modules:
        # v6 adds nothing but a memory, which has no weights.
        return "v6" if "memory" in outputs else "v3" if outputs else None
    return "v2" if "attn_core" in modules else "v1"


def configure(variant: str, weights: dict[str, Tensor], num_outer_steps: int, num_inner_steps: int) -> LiminalConfig:
    """The config of a head with no encoder and no projection, of the size that the weights have."""
    if "ln_z.weight" not in weights:
        raise ConversionError("No weights of the original here: 'ln_z.weight' is missing.")
    size = weights["ln_z.weight"].shape[0]
    return LiminalConfig(
        text_config=None,
        pooled_size=size,
        latent_size=size,
        project_pooled=False,
        head=variant,
        num_outer_steps=num_outer_steps,
        num_inner_steps=num_inner_steps,
    )


def load_into(head: Head, variant: str, weights: dict[str, Tensor]) -> None:
    """Loads the original's weights; a readout that the original does not have starts at zero.

    Raises:
        ConversionError: a parameter is missing, too many, or of another shape.
    """
    state = {rename(name): tensor for name, tensor in weights.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    for name in ADDED.get(variant, set()):
        state[name] = torch.zeros(expected[name], dtype=weights["ln_z.weight"].dtype)
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if given != expected:
        wrong = sorted(name for name in given.keys() | expected.keys() if given.get(name) != expected.get(name))
        raise ConversionError(
            f"These are not the weights of a {variant} of this size. They differ in: "
            + ", ".join(f"{name} (has {given.get(name)}, needs {expected.get(name)})" for name in wrong[:5])
        )
    head.load_state_dict(state)


def convert(
    path: Path,
    folder: Path,
    variant: str | None = None,
    num_outer_steps: int | None = None,
    num_inner_steps: int | None = None,
) -> LiminalForPADRegression:
    """Writes the checkpoint of ours that computes what the original computes with the weights in `path`.

    Args:
        path: safetensors file with the original's state dict, or a parity file.
        folder: where the checkpoint goes.
        variant: needed where the names alone don't tell (v3 and v6 have the same weights).
        num_outer_steps, num_inner_steps: K and n; default what the file's metadata says, else 5 and 4 as published.

    Returns:
        The model, which takes `pooled_embeds` of the size of the latent.

    Raises:
        ConversionError: the file does not hold such weights.
    """
    tensors, metadata = read(path)
    prefix = "weights/" if any(name.startswith("weights/") for name in tensors) else ""
    weights = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    outputs = {name.rsplit("/", 1)[-1] for name in tensors if "/out/" in name}
    variant = variant or find_variant(set(weights), outputs)
    if variant is None:
        raise ConversionError("v3 and v6 have the same weights: add --variant v3 or --variant v6.")
    config = configure(
        variant,
        weights,
        num_outer_steps or int(metadata.get("K", 5)),
        num_inner_steps or int(metadata.get("inner", 4)),
    )
    model = LiminalForPADRegression(config)
    model.to(dtype=weights["ln_z.weight"].dtype)
    load_into(model.liminal.head, variant, weights)
    model.save_pretrained(folder)
    return model


def full_attention(attention: HistoryAttention, latents: list[Tensor]) -> Tensor:
    """`(batch, K, K)`, every step's query over all steps, as the original's last call gave it."""
    states = torch.stack(latents, dim=1)
    queries, keys = attention.q_proj(states), attention.k_proj(states)
    return torch.softmax(queries @ keys.transpose(1, 2) * queries.shape[-1] ** -0.5, dim=-1)


def ours(output: HeadOutput, attention_last: Tensor | None, name: str) -> Tensor:
    """What the original calls `name`, from our head's output for a batch of one, in the original's shape."""
    tensors: dict[str, Tensor | None] = {
        "y": output.answer,
        "confidences": output.confidences,
        "pad": output.pad_trajectory[:, -1],
        "rinse": output.reflection,
        "attention_last": attention_last,
    }
    if output.memory is not None:
        slots, count = output.memory["slots"], output.memory["count"]
        # Ours has a fixed size, the newest last.
        tensors["memory"] = slots[:, slots.shape[1] - int(count) :]
    tensor = tensors.get(name)
    if tensor is None:
        raise ConversionError(f"The file has an output {name!r} that our head does not give.")
    return tensor[0] if name in UNBATCHED else tensor


@torch.no_grad()
def largest_difference(path: Path) -> tuple[str, int, float]:
    """Runs one parity file; returns the variant, how many tensors were compared, and the largest difference.

    Raises:
        ConversionError: the file holds no parity vectors, or an output of another shape.
    """
    tensors, metadata = read(path)
    weights = {name.removeprefix("weights/"): value for name, value in tensors.items() if name.startswith("weights/")}
    cases: dict[str, dict[int, dict[str, dict[str, Tensor]]]] = defaultdict(dict)
    outputs = set()
    for name, tensor in tensors.items():
        if match := _VECTOR.fullmatch(name):
            sides = cases[match["case"]].setdefault(int(match["turn"]), {"in": {}, "out": {}})
            sides[match["side"]][match["name"]] = tensor
            if match["side"] == "out":
                outputs.add(match["name"])
    if not outputs:
        raise ConversionError("It holds no parity vectors (<case>/turn<t>/out/<name>).")
    variant = find_variant(set(weights), outputs)
    assert variant is not None
    first_turn = next(iter(next(iter(cases.values())).values()))
    steps = int(metadata["K"]) if "K" in metadata else first_turn["out"]["confidences"].numel()
    config = configure(variant, weights, steps, int(metadata.get("inner", 4)))
    head = HEADS[variant](config, config.latent_size).to(weights["ln_z.weight"].dtype).eval()
    if "affect_w" in metadata:
        head.affect_weight = float(metadata["affect_w"])
    load_into(head, variant, weights)
    latents: list[Tensor] = []  # those that enter the history in one call
    if hasattr(head, "attn_core"):
        head.attn_core.register_forward_pre_hook(lambda _, arguments: latents.append(arguments[0]))

    compared, largest = 0, 0.0
    for turns in cases.values():
        memory = None
        for _, sides in sorted(turns.items()):
            inputs = sides["in"]
            latents.clear()
            output = head(
                HeadInput(inputs["x"], affect=inputs.get("affect"), initial_answer=inputs.get("y0"), memory=memory)
            )
            memory = output.memory
            attention_last = full_attention(head.attn_core, latents) if latents else None
            for name, expected in sides["out"].items():
                computed = ours(output, attention_last, name)
                if computed.shape != expected.shape:
                    raise ConversionError(f"{name} has shape {tuple(computed.shape)}, not {tuple(expected.shape)}.")
                difference = float((computed - expected).abs().max())
                # A NaN is never within the tolerance, and max() would lose it.
                largest = max(largest, difference if difference == difference else float("inf"))
                compared += 1
    return variant, compared, largest


def check(folder: Path, console: Console) -> bool:
    """Runs every parity file of a folder and prints a row for each; True if all are within the tolerance.

    Raises:
        ConversionError: the folder has no such file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConversionError(f"{folder} is no folder with parity files (*.safetensors).")
    table = Table("file", "head", "tensors", "largest difference", f"within {TOLERANCE:g}")
    passed = True
    for path in files:
        try:
            variant, compared, difference = largest_difference(path)
        except (ConversionError, KeyError, ValueError) as error:
            table.add_row(path.name, "", "0", str(error), "no")
            passed = False
            continue
        within = difference <= TOLERANCE
        passed &= within
        table.add_row(path.name, variant, str(compared), f"{difference:.2e}", "yes" if within else "no")
    console.print(table)
    return passed


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Convert weights of the original LIMINAL Heartbeat into a checkpoint of ours, or check parity."
    )
    parser.add_argument("weights", nargs="?", type=Path, metavar="WEIGHTS", help="safetensors file to convert")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where the checkpoint goes")
    parser.add_argument("--variant", choices=VARIANTS, help="needed only to tell v3 from v6")
    parser.add_argument("--num-outer-steps", type=int, metavar="K", help="default: the file's own, else 5")
    parser.add_argument("--num-inner-steps", type=int, metavar="N", help="default: the file's own, else 4")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="run every parity file of a folder")
    options = parser.parse_args(arguments)
    if (options.check is None) == (options.weights is None) or (options.weights is None) != (options.output is None):
        parser.error("give either WEIGHTS -o FOLDER, or --check FOLDER")
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        if options.check is not None:
            return 0 if check(options.check, console) else 1
        model = convert(
            options.weights, options.output, options.variant, options.num_outer_steps, options.num_inner_steps
        )
    except ConversionError as error:
        print(f"convert_neurolab_to_hf: {error}", file=sys.stderr)
        return 2
    config = model.config
    print(f"{config.head}, d = {config.latent_size}, K = {config.num_outer_steps} -> {options.output}")
    if config.head in ADDED:
        print(f"{config.head} was published without a readout of PAD: ours starts at zero, train it before using it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
