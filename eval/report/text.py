"""Numbers as a reader wants them: rounded, signed, with their interval and unit."""

from __future__ import annotations

from memory.records import Estimate

# An interval that is narrower than this is told with three digits.
_NARROW = 0.03


def number(value: float, digits: int = 3) -> str:
    """Return a fixed-point number with a true minus sign and no negative zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def signed(value: float, digits: int = 3) -> str:
    """Return a change with its sign, e.g. "+0.042"; zero has none."""
    text = number(value, digits)
    return f"+{text}" if float(f"{value:.{digits}f}") > 0 else text


def interval(estimate: Estimate) -> str:
    """Return the 95% interval, e.g. "0.67 to 0.75", with the digits that its width allows."""
    digits = 2 if estimate.high - estimate.low > _NARROW else 3
    return f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"


def estimate_text(estimate: Estimate | None) -> str:
    """Return value, interval and n in one phrase; of one value alone there is no interval."""
    if estimate is None:
        return "not measured"
    if estimate.low == estimate.high:
        return f"{number(estimate.value)} (n {count(estimate.n)})"
    return f"{number(estimate.value)} ({interval(estimate)}, n {count(estimate.n)})"


def count(value: float) -> str:
    """Return a whole number with commas between thousands."""
    return f"{value:,.0f}"


def p_value(value: float) -> str:
    """Return a probability of a test, not more exact than it is."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Return a time span in the two largest units that matter."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


_ABBREVIATIONS = {"auroc": "AUROC", "miou": "mIoU", "iou": "IoU"}


def words(name: str) -> str:
    """Return a key as words, e.g. "Balanced accuracy"."""
    text = name.replace("_", " ")
    first, _, rest = text.partition(" ")
    return f"{_ABBREVIATIONS.get(first, first[:1].upper() + first[1:])} {rest}".strip()


def shorten(text: str, n_characters: int) -> str:
    """Return the text, cut with an ellipsis where it is longer than `n_characters`."""
    return text if len(text) <= n_characters else text[: max(n_characters - 1, 0)].rstrip() + "…"
