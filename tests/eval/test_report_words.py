"""The report says of a session what is true of it: names of figures, audits, how to go on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.report.page import build_report_html
from eval.report.text import interval, words
from memory.records import Estimate
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


def test_an_interval_has_the_digits_that_it_allows() -> None:
    assert interval(Estimate(value=0.644, low=0.608, high=0.679, n=525)) == "0.61 to 0.68"
    assert interval(Estimate(value=0.151, low=0.148, high=0.153, n=400)) == "0.148 to 0.153"


def test_slices_of_pixels_have_a_mean_score() -> None:
    by_class = session()
    settings = {**by_class.settings, "dstm": {"task": "segmentation"}}
    assert "accuracy of whichever slice is worst" in build_report_html(by_class)
    page = build_report_html(replace(by_class, settings=settings))
    assert "mean score of whichever slice is worst" in page
    assert "Mean score on feedback photographs of the slice" in page


def test_without_an_audit_none_is_said_to_have_judged() -> None:
    audited = session()
    assert "kept by the audit" in build_report_html(audited)
    settings = {**audited.settings, "audit": {"method": "none"}}
    page = build_report_html(replace(audited, settings=settings))
    assert "% kept by the audit" not in page
    assert "there is no audit: all are" in page
    for shown in ("</span> 64%", "% kept", '<td class="num">67%</td>'):
        assert shown in build_report_html(audited)
        assert shown not in page


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
