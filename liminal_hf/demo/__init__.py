"""The page of `liminal demo`: a conversation turn by turn, one text step by step, a table in and out.

Requires torch, transformers, gradio and matplotlib (`pip install 'liminal_hf[demo]'`); Excel needs the extra `tables`.
The caller brings a `pipeline("pad-regression")`. Nothing is fetched from elsewhere and nothing is reported: no
analytics, no fonts, no history. What a visitor says is kept in that visitor's session alone, and forgotten with it.

The same functions answer `gradio_client`: `/say` (text, speaker), `/new`, `/read` (text), `/score` (file, column).
"""

from ._page import build, launch
from ._reader import MAX_BYTES, MAX_CHARACTERS, MAX_NAME, MAX_ROWS, MAX_TURNS, Conversation, Reader, Scored, columns_of

__all__ = ["MAX_BYTES", "MAX_CHARACTERS", "MAX_NAME", "MAX_ROWS", "MAX_TURNS"]
__all__ += ["Conversation", "Reader", "Scored", "build", "columns_of", "launch"]
