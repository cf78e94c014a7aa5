"""Answers requests of a Hugging Face Inference Endpoint with pleasure, arousal and dominance.

Requires transformers and torch; everything else lies in this repository. `liminal push --handler` puts this file here.
"""

from typing import Any

from transformers import pipeline


class EndpointHandler:
    """What the endpoint's server builds once and calls for each request.

    Args:
        path: folder of the downloaded repository.

    Example:
        >>> import liminal_hf
        >>> handler = EndpointHandler(liminal_hf.DEFAULT_CHECKPOINT)
        >>> [sorted(row)[:3] for row in handler({"inputs": ["Good morning!"]})]
        [['arousal', 'confidence', 'dominance']]
    """

    def __init__(self, path: str = "") -> None:
        # device_map would need accelerate; the pipeline takes the accelerator by itself where there is one.
        self.pipeline: Any = pipeline("pad-regression", model=path, trust_remote_code=True)  # type: ignore[call-overload]

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """One row per text.

        Args:
            data: `inputs`, a text or a list of texts, and optionally `parameters` (`max_length`, `num_outer_steps`,
                `batch_size`).

        Raises:
            ValueError: there are no inputs. A text that can't be read has a row that says so in `error`.
        """
        if not data.get("inputs"):
            raise ValueError('Send a text or a list of texts: {"inputs": ["What a lovely surprise!"]}')
        inputs = [data["inputs"]] if isinstance(data["inputs"], str) else data["inputs"]
        return self.pipeline(inputs, **data.get("parameters", {}))
