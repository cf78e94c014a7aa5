"""`liminal serve`: texts and conversations over HTTP and WebSocket, read in batches, with limits and metrics.

Requires torch, transformers and the extra `serve`. No text is kept, and none is logged.
"""

from .app import MAX_BYTES, MAX_CHARACTERS, MAX_MESSAGES, MAX_TEXTS, create_app
from .batching import Batcher, Busy

__all__ = ["MAX_BYTES", "MAX_CHARACTERS", "MAX_MESSAGES", "MAX_TEXTS", "Batcher", "Busy", "create_app"]
