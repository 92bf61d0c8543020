"""What is said to words that were not understood."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from agent.chat.replies import not_taken, which_data
from agent.steering.clauses import parse
from agent.steering.lexicon import Lexicon
from eval.report.blocks import Line
from prompts.user_vocabulary import user_vocabulary
from prompts.vocabulary import load_vocabulary
from tests.factories import estimate, report, slice_score


def seen(measured: bool = True) -> Any:
    """An overview of a session on streets."""
    vocabulary = load_vocabulary("streets")
    scores = [slice_score({"light": key}, value) for key, value in (("day", 0.4), ("night", 0.15))]
    measured_now = report(*scores, metrics={"iou_bicyclist": estimate(0.1)})
    return SimpleNamespace(
        vocabulary=vocabulary,
        lexicon=Lexicon(vocabulary),
        last_report=lambda: measured_now if measured else None,
    )


def answer(text: str, measured: bool = True) -> str:
    overview = seen(measured)
    blocks = not_taken(parse(text, overview.lexicon), overview)
    return " ".join(block.text for block in blocks if isinstance(block, Line))


def test_each_reply_says_what_would_be_understood() -> None:
    assert "light: day, dusk, night" in answer("mehr Regen bitte")
    assert "Near words: night" in answer("more nigth scenes")
    assert "'cars' is about traffic" in answer("more cars")
    assert "Which pedestrians: none, few or many?" in answer("fewer pedestrians")
    assert '"20% weather=rain"' in answer("100 images of rain")
    assert '"fewer weather=rain"' in answer("not only rain")
    assert "more weather=rain" in answer("more rain in Kiel")
    assert answer("more rain") == ""


def test_a_class_of_pixels_is_no_word_of_prompts() -> None:
    assert "class of pixels (IoU 0.100)" in answer("more bicyclists")
    assert "class of pixels" not in answer("more bicyclists", measured=False)


def test_a_class_that_is_an_ordinary_word_is_said_with_its_attribute() -> None:
    vocabulary = user_vocabulary("own", ["none", "true"], {"light": ["yes", "no"]})
    overview: Any = SimpleNamespace(
        vocabulary=vocabulary, lexicon=Lexicon(vocabulary), last_report=lambda: None
    )
    for name in ("none", "true"):
        (reply,) = not_taken(parse(f"more {name}", overview.lexicon), overview)
        assert isinstance(reply, Line) and f"Say class={name}." in reply.text
        (wish,) = parse(f"more class={name}", overview.lexicon).preferences
        assert wish.attributes == {"class": (name,)}


def test_harder_data_are_named() -> None:
    assert '"more light=night"' in which_data(seen())
    assert "first report" in which_data(seen(measured=False))
