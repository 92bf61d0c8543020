"""The report says of a session what is true of it: names of figures, audits, how to go on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.report import build_report_html
from eval.report.text import words
from tests.eval.fake_session import session


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("miou", "mIoU"),
        ("iou_road", "IoU road"),
        ("auroc", "AUROC"),
        ("balanced_accuracy", "Balanced accuracy"),
    ],
)
def test_figures_are_called_as_usual(key: str, said: str) -> None:
    assert words(key) == said


def test_without_an_audit_none_is_said_to_have_judged() -> None:
    audited = session()
    assert "kept by the audit" in build_report_html(audited)
    settings = {**audited.settings, "audit": {"method": "none"}}
    page = build_report_html(replace(audited, settings=settings))
    assert "% kept by the audit" not in page
    assert "there is no audit: all are" in page


def test_images_of_which_pixels_alone_have_classes_have_no_chart_of_classes() -> None:
    whole = session()
    rounds = [
        r.model_copy(
            update={
                "plan": r.plan.model_copy(
                    update={
                        "prompts": tuple(
                            p.model_copy(update={"class_name": "scene"}) for p in r.plan.prompts
                        )
                    }
                )
            }
        )
        for r in whole.rounds
        if r.plan
    ]
    assert "Images by class" in build_report_html(whole)
    assert "Images by class" not in build_report_html(replace(whole, rounds=rounds))
