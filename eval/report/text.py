"""Formatting of numbers: rounded, signed, with interval and unit."""

from __future__ import annotations

from memory.records import Estimate

# Narrower intervals are shown with three digits.
_NARROW = 0.03
_ABBREVIATIONS = {"auroc": "AUROC", "miou": "mIoU", "iou": "IoU"}


def number(value: float, digits: int = 3) -> str:
    """Return a fixed-point number with a true minus sign and no negative zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def signed(value: float, digits: int = 3) -> str:
    """Return a change with its sign, e.g. "+0.042"; zero has none."""
    text = number(value, digits)
    return f"+{text}" if float(f"{value:.{digits}f}") > 0 else text


def interval(estimate: Estimate, digits: int | None = None, sign: bool = False) -> str:
    """Return the 95% interval, e.g. "0.67 to 0.75".

    Args:
        estimate: the figure.
        digits: digits after the point; None: two, or three for a narrow interval.
        sign: whether bounds above zero have a plus sign.
    """
    if digits is None:
        digits = 2 if estimate.high - estimate.low > _NARROW else 3
    form = signed if sign else number
    return f"{form(estimate.low, digits)} to {form(estimate.high, digits)}"


def estimate_text(estimate: Estimate | None, digits: int = 3, sign: bool = False) -> str:
    """Return value, interval and n in one phrase, e.g. "0.712 (0.670 to 0.750, n=90)".

    The interval of a single sample is omitted if it has no width. See `interval` for the arguments.
    """
    if estimate is None:
        return "not measured"
    value = (signed if sign else number)(estimate.value, digits)
    if estimate.n <= 1 and estimate.low == estimate.high:
        return f"{value} (n={estimate.n})"
    return f"{value} ({interval(estimate, digits, sign)}, n={estimate.n})"


def overlap(one: Estimate, other: Estimate) -> bool:
    """Return whether two intervals overlap, so that chance may explain the difference."""
    return one.low <= other.high and other.low <= one.high


def count(value: float) -> str:
    """Return a whole number with commas between thousands."""
    return f"{value:,.0f}"


def percent(share: float, sign: bool = False) -> str:
    """Return a share, 0..1, or a difference of shares as whole percent."""
    return f"{(signed if sign else number)(100 * share, 0)}%"


def plural(n: int, noun: str) -> str:
    """Return a number with its noun, e.g. "2 rounds"."""
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def p_value(value: float) -> str:
    """Return a p-value with two or three digits, "< 0.001" below that."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Return a time span in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def words(name: str) -> str:
    """Return a key as words, e.g. "Balanced accuracy"."""
    text = name.replace("_", " ")
    first, _, rest = text.partition(" ")
    return f"{_ABBREVIATIONS.get(first, first[:1].upper() + first[1:])} {rest}".strip()


def shorten(text: str, n_characters: int) -> str:
    """Return a text, cut with an ellipsis if it is longer than `n_characters`."""
    return text if len(text) <= n_characters else text[: max(n_characters - 1, 0)].rstrip() + "…"
