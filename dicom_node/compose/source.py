"""Values of a source header. Somewhere some are always wrong: a height with a comma, a date in words.

What comes in: a header as it was received. What goes out: a value, or None. A malformed value that a result
could do without must never keep the result from being made.
"""

from typing import Any

from pydicom import Dataset


def value(header: Dataset, keyword: str) -> Any:
    """The value of an attribute; None where it is missing or cannot be read."""
    try:
        return header.get(keyword)
    except (ValueError, TypeError, NotImplementedError, OverflowError):
        return None


def numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """The values of a numeric attribute; empty where it is missing or holds something else."""
    found = value(header, keyword)
    if found is None:
        return ()
    try:
        many = not isinstance(found, str) and hasattr(found, "__iter__")
        return tuple(float(one) for one in found) if many else (float(found),)
    except (ValueError, TypeError):
        return ()
