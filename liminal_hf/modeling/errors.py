"""The one error class for what a person can put right.

Requires nothing.
"""


class LiminalError(ValueError):
    """An input, an option or a file that can't be used; its message says what to type instead.

    It is a `ValueError`, so that code written for transformers catches it. The command line prints its message alone;
    any other exception is a fault of the package and keeps its traceback.

    Example:
        >>> raise LiminalError("num_outer_steps must be at least 1, got 0.")
        Traceback (most recent call last):
        liminal_hf.modeling.errors.LiminalError: num_outer_steps must be at least 1, got 0.
    """
