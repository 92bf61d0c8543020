"""Plans of a session, scored by the images that a comparison has drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.autonomous.runner import run_rounds
from agent.cli.app import app
from agent.config.settings import Settings
from agent.experiments.arms import Arms
from agent.experiments.compare import Experiment
from agent.loop.components import Components
from agent.loop.observer import Observer
from agent.replay.pooled import Pools
from agent.session.folder import folder_of, open_session
from memory.errors import SettingsError
from memory.journal import read_events, rounds
from memory.records import Plan
from tests.agent.quick import toy_settings
from tools.data.stored_images import StoredImages

OF_SESSION = ("brain=policy:uniform", "session.name=past", "limits.disk_reserve_gb=0")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a session that is done, beside a comparison of the same preset."""
    home = tmp_path_factory.mktemp("home")
    made = toy_settings(home, *OF_SESSION)
    with open_session(made, "past") as session:
        run_rounds(Components.of_session(session, Observer()))
    experiment = Experiment.open(made, "toys", Arms(planners=("uniform", "failure")))
    for seed in (0, 1):
        experiment.run_seed(seed)
    return made


def recorded(settings: Settings) -> list[Plan]:
    past = rounds(read_events(folder_of(settings.home, "past") / "journal.jsonl"))
    return [r.plan for r in past if r.plan]


def pools_of(settings: Settings) -> Pools:
    return Pools(settings.home, "toys", folder_of(settings.home, "past"), settings)


def test_a_plan_is_filled_from_all_pools_and_no_image_is_used_twice(settings: Settings) -> None:
    plan = recorded(settings)[0]
    prompt = plan.prompts[0].model_copy(update={"count": 3})
    pools = pools_of(settings)
    pieces, held = pools.fill(plan.model_copy(update={"prompts": (prompt,)}))
    assert held == 1 and sum(pieces.values()) == 3
    images = StoredImages([*pieces])
    assert len(pieces) == 2 and len(images) == 4
    assert len({image.tobytes() for image in images.take(range(4)).images}) == 4
    assert set(images.classes) == {0 if prompt.class_name == "functional" else 1}
    many = prompt.model_copy(update={"count": 500})
    pieces, held = pools.fill(plan.model_copy(update={"prompts": (many,)}))
    assert 0 < held < 1
    images = StoredImages([*pieces])
    drawn = images.take(range(len(images))).images
    assert max(Counter(image.tobytes() for image in drawn).values()) == 1
    assert pools.score(plan.model_copy(update={"prompts": (many,)}), []).score is None


def test_the_same_plan_scores_the_same_and_the_page_says_so(settings: Settings) -> None:
    past = rounds(read_events(folder_of(settings.home, "past") / "journal.jsonl"))
    # Seed 0 of the comparison began like the session.
    plan = recorded(settings)[0]
    one, two = (pools_of(settings).score(plan, past) for _ in range(2))
    assert one == two
    assert one.held == 1
    assert one.score is not None and 0 <= one.score.low <= one.score.value <= 1
    asked = ["--brain", "policy:uniform", "--scores", "toys", "--home", str(settings.home)]
    done = CliRunner().invoke(app, ["replay", "past", *asked])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "score" in said and "recorded / asked instead" in said


def test_a_plan_is_scored_with_the_photographs_that_the_session_learns_from(
    settings: Settings,
) -> None:
    past = rounds(read_events(folder_of(settings.home, "past") / "journal.jsonl"))
    plan = recorded(settings)[0]
    dstm = settings.dstm.model_copy(update={"train_on": "real"})
    scores = [
        pools_of(settings.model_copy(update={"dstm": dstm})).score(other, past).score
        for other in (plan, plan.model_copy(update={"prompts": plan.prompts[:-1]}))
    ]
    # On photographs alone it does not matter what is drawn.
    assert scores[0] == scores[1] != pools_of(settings).score(plan, past).score


def test_a_comparison_of_other_images_is_refused(settings: Settings) -> None:
    folder = folder_of(settings.home, "past")
    with pytest.raises(SettingsError, match=r"Unknown comparison 'toy'. Did you mean 'toys'"):
        Pools(settings.home, "toy", folder, settings)
    audit = settings.audit.model_copy(update={"threshold": 0.9})
    other = settings.model_copy(update={"audit": audit})
    with pytest.raises(SettingsError, match=r"audit\.threshold: .* -> 0\.9"):
        Pools(settings.home, "toys", folder, other)


def test_scores_need_a_brain(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["replay", "--scores", "toys", "--home", str(tmp_path)])
    assert done.exit_code != 0
