"""`liminal benchmark`: any reader of texts, over the corpora that are at hand, in one row of figures.

Requires numpy, pandas and what the readers need. `corpora` finds labelled texts, `readers` turns a name into a function
from texts to PAD, `measure` makes a row, `leaderboard` a page from many rows.
"""
