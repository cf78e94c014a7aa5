"""What every Hub repository of ours carries: the model family in one flat folder.

Requires only torch, transformers, huggingface_hub and the standard library; siblings are imported as
`from .sibling import name`, because that is what `trust_remote_code` can copy.
"""
