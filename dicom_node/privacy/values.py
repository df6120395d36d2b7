"""Single values: dummies by VR, dates that move, what is legal.

What comes in: a value and its VR. What goes out: another value of the same VR. Pure.
"""

import re
from datetime import date, timedelta

REMOVED = "REMOVED"
_DUMMIES: dict[str, object] = {
    "AE": REMOVED,
    "AS": "000Y",
    "AT": 0,
    "CS": REMOVED,
    "DA": "19000101",
    "DS": "0",
    "DT": "19000101000000",
    "IS": "0",
    "LO": REMOVED,
    "LT": REMOVED,
    "PN": REMOVED,
    "SH": REMOVED,
    "ST": REMOVED,
    "TM": "000000",
    "UC": REMOVED,
    "UT": REMOVED,
    "UR": "about:blank",
}
_LEGAL = {
    "CS": re.compile(r"[A-Z0-9_ ]{0,16}"),
    "IS": re.compile(r" *[+-]?\d{1,12} *"),
    "DS": re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *"),
    "AS": re.compile(r"\d{3}[DWMY]"),
}
_DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})(.*)", re.DOTALL)
_REST = re.compile(r"(\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?)?([+-]\d{4})?")
_TIME = re.compile(r"\d{2}:?(\d{2}:?(\d{2}(\.\d{1,6})?)?)?")
OLDEST = 89


def dummy(vr: str) -> object:
    """A value that means nothing; for numbers 0, for bytes two zeros."""
    if vr in _DUMMIES:
        return _DUMMIES[vr]
    if vr in ("FL", "FD"):
        return 0.0
    return 0 if vr in ("US", "SS", "UL", "SL", "UV", "SV") else b"\0\0\0\0\0\0\0\0"


def is_legal(vr: str, text: str) -> bool:
    """Whether a text can be a value of this VR: a name in a number is none (PS3.5 6.2)."""
    pattern = _LEGAL.get(vr)
    return pattern is None or not text or pattern.fullmatch(text.strip("\0 ")) is not None


def moved(vr: str, text: str, days: int) -> str:
    """A date or a date and time so many days earlier; a time stays. Empty where it is none.

    Times of day stay, so that what is computed from pairs of them (uptake of a tracer, phases) stays right.
    """
    text = text.strip("\0 ")
    if vr == "TM":
        return text if _TIME.fullmatch(text) else ""
    match = _DATE.fullmatch(text)
    if match is None or (match[4] and (vr == "DA" or not _REST.fullmatch(match[4]))):
        return ""
    try:
        earlier = date(int(match[1]), int(match[2]), int(match[3])) - timedelta(days)
    except (ValueError, OverflowError):
        return ""
    return f"{earlier:%Y%m%d}".zfill(8) + match[4]


def is_date(vr: str, text: str) -> bool:
    """Whether a text is a date or a time, and nothing else."""
    return not text or moved(vr, text, 0) != ""


def capped_age(text: str) -> str:
    """Ages above 89 years become 90: there are few people so old."""
    match = re.fullmatch(r"(\d{3})Y", text.strip())
    return "090Y" if match and int(match[1]) > OLDEST else text
