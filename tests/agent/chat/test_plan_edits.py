from __future__ import annotations

import pytest

from agent.chat.plan_edits import added, edited, read_addition, remade
from agent.loop.approval import ResolvedDraft
from agent.planners import PlanDraft, PromptDraft
from agent.steering.arguments import split_words, unquoted, whole_number
from agent.steering.preferences import Preference, PreferenceEffect
from memory.errors import ToolError
from memory.records import Hypothesis, Plan, PromptSpec
from prompts.vocabulary import load_vocabulary

WORDS = load_vocabulary("elpv")
N_IMAGES = 24


def spec(number: int, count: int, **attributes: str) -> PromptSpec:
    return PromptSpec(
        id=f"r001p{number:02d}",
        text=WORDS.caption(attributes),
        class_name=WORDS.class_of[attributes["severity"]],
        attributes=attributes,
        count=count,
        why="because",
    )


PLAN = Plan(
    round=1,
    author="policy:test",
    prompts=(
        spec(0, 12, wafer="poly", severity="defective", brightness="dark"),
        spec(1, 8, wafer="mono", severity="functional", brightness="bright"),
        spec(2, 4, wafer="mono", severity="functional", brightness="medium"),
    ),
    hypothesis=Hypothesis(slice="wafer=poly", expected_change=0.02),
    why="a reason",
)


def counts(draft: PlanDraft) -> list[int]:
    return [prompt.count for prompt in draft.prompts]


def test_one_row_changes_and_all_else_stays() -> None:
    draft = edited(PLAN, "2 brightness dark", N_IMAGES, WORDS)
    first, second, third = draft.prompts
    assert (draft.why, draft.hypothesis) == (PLAN.why, PLAN.hypothesis)
    assert first.text == PLAN.prompts[0].text and third.text == PLAN.prompts[2].text
    assert second.attributes == {"wafer": "mono", "severity": "functional", "brightness": "dark"}
    assert second.text == WORDS.caption(second.attributes)
    assert second.why == "edited by the user" and first.why == "because"
    assert draft == edited(PLAN, "2 brightness=dark", N_IMAGES, WORDS)


def test_a_class_is_said_by_its_attribute() -> None:
    (first, *_) = edited(PLAN, "1 class functional", N_IMAGES, WORDS).prompts
    assert (first.class_name, first.attributes["severity"]) == ("functional", "functional")


def test_a_text_leaves_class_and_attributes_to_be_read_anew() -> None:
    (first, *_) = edited(PLAN, "1 text a bright mono cell", N_IMAGES, WORDS).prompts
    assert first == PromptDraft(text="a bright mono cell", count=12, why="edited")


def test_other_rows_give_way_in_proportion_and_go_where_nothing_is_left() -> None:
    assert counts(edited(PLAN, "1 count 6", N_IMAGES, WORDS)) == [6, 8, 4]  # it need not be filled
    assert counts(edited(PLAN, "1 count 18", N_IMAGES, WORDS)) == [18, 4, 2]
    assert counts(edited(PLAN, "2 count 24", N_IMAGES, WORDS)) == [24]
    assert counts(edited(PLAN, "3 remove", N_IMAGES, WORDS)) == [12, 8]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "Say e.g. /edit 3 count 12"),
        ("one count 3", "Say e.g. /edit 3 count 12"),
        ("4 remove", "its rows are 1 to 3"),
        ("1 count 25", "no whole number of 1 to 24"),
        ("1 count many", "no whole number of 1 to 24"),
        ("1 brightness purple", "value of brightness 'purple'"),
        ("1 colour blue", "cell 'colour'"),
        ("1 class broken", "class 'broken'"),
        ('1 text "open', "A quote is not closed"),
    ],
)
def test_a_line_that_cannot_be_followed_says_what_can(line: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        edited(PLAN, line, N_IMAGES, WORDS)


def test_the_only_row_stays() -> None:
    alone = PLAN.model_copy(update={"prompts": PLAN.prompts[:1]})
    with pytest.raises(ToolError, match="the only row"):
        edited(alone, "1 remove", N_IMAGES, WORDS)


def test_an_addition_is_read_and_finds_its_room() -> None:
    draft = read_addition('"a dark poly cell" x6 brightness=dark class=defective', N_IMAGES)
    assert draft == PromptDraft(
        text="a dark poly cell",
        class_name="defective",
        attributes={"brightness": "dark"},
        count=6,
        why="added by the user",
    )
    assert read_addition("a dark poly cell 6x", N_IMAGES).text == "a dark poly cell"
    assert counts(added(PLAN, draft, N_IMAGES)) == [9, 6, 3, 6]
    assert counts(added(PLAN, draft, 30)) == [12, 8, 4, 6]


@pytest.mark.parametrize("line", ["", '"a dark poly cell"', "x6", '"a cell" x0', '"a cell" x99'])
def test_an_addition_needs_words_and_a_count_within_the_budget(line: str) -> None:
    with pytest.raises(ToolError, match=r"Say /add|no whole number of 1 to 24"):
        read_addition(line, N_IMAGES)


def test_what_wishes_moved_is_measured_again_and_forgotten_ones_are_left_out() -> None:
    draft = edited(PLAN, "1 count 6", N_IMAGES, WORDS)
    plan = PLAN.model_copy(
        update={"prompts": (PLAN.prompts[0].model_copy(update={"count": 6}), *PLAN.prompts[1:])}
    )
    shifts = tuple(
        PreferenceEffect(preference=name, before=0.25, after=0.5) for name in ("w1", "w2")
    )
    made = ResolvedDraft(draft=PlanDraft(prompts=()), shifts=shifts, additions=("a1",))
    held = [Preference(id="w1", attributes={"wafer": ("poly",)}, factor=2)]
    again = remade(made, draft, plan, held, WORDS)
    assert again.draft == draft and again.additions == ("a1",)
    assert again.shifts == (PreferenceEffect(preference="w1", before=0.25, after=6 / 18),)


def test_what_follows_a_command() -> None:
    assert unquoted(" “dark poly” ") == "dark poly"
    assert split_words('1 text "a dark cell"') == ["1", "text", "a dark cell"]
    assert whole_number("24", 24) == 24
    for text in ("0", "25", "-1", "1.5", "9" * 5000):
        with pytest.raises(ToolError, match="no whole number of 1 to 24"):
            whole_number(text, 24)
