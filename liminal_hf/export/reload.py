"""Loads a repository as a stranger does and writes down what it predicts; `hub.push` compares that with the original.

Requires torch, transformers and safetensors. It is run by path in a process of its own, in which the package cannot be
imported, so that nothing but the repository's own code answers.
"""

import json
import sys
from typing import Any


def main(request: dict[str, Any]) -> None:
    """Loads, predicts, writes the logits.

    Args:
        request: `repo_id`, `revision`, `without_package`, `device`, `threads`, `attention`, `texts` (or None for a
            model with no encoder), `output` (path of the safetensors file to write).
    """
    if request["without_package"]:
        sys.modules["liminal_hf"] = None  # type: ignore[assignment] # from here on, importing it is an ImportError
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(request["threads"])
    name, revision = request["repo_id"], request["revision"]
    options = {"attn_implementation": request["attention"]} if request["attention"] else {}
    model = AutoModelForSequenceClassification.from_pretrained(
        name, revision=revision, trust_remote_code=True, **options
    )
    tokenizer = None
    if request["texts"]:
        # Without the last argument it stops and asks: it looks at the config, which is code.
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=True)
    logits = predict(model.to(request["device"]).eval(), tokenizer, request["texts"])
    save_file({"logits": logits}, request["output"])


def predict(model: Any, tokenizer: Any, texts: list[str] | None) -> Any:
    """`(number of texts, 3)` on the CPU; for a model with no encoder, of four fixed vectors."""
    import torch

    if texts is None:
        size = model.config.pooled_size
        inputs: dict[str, Any] = {"pooled_embeds": torch.linspace(-1, 1, 4 * size, device=model.device).view(4, size)}
    else:
        limit = model.config.max_seq_length
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt").to(model.device)
    with torch.no_grad():
        return model(**inputs).logits.float().cpu().contiguous()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
