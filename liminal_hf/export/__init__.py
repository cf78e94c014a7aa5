"""From a checkpoint to what others load: the Hub repository with its model card, and other formats.

Requires huggingface_hub; each module says what else it needs.
"""
