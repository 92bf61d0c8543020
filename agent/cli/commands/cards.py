"""The card of an MTDM as a person reads it: a table, and what to do about low figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Below this share of what holds for images of the data, more steps are the first thing to try.
_LOW = 0.8
# Below this the nearest training photographs are suspiciously near.
_COPIES = 0.5


def table(card: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of a card's figures."""
    rows = []
    if "audit_agreement_generated" in card:
        rows.append(
            [
                "share whose class is seen by a classifier trained on the data",
                f"{card['audit_agreement_generated']:.2f}",
                f"{card['audit_agreement_real']:.2f} on images of the data",
            ]
        )
    for kind, found in card.get("label_agreement", {}).items():
        rows.append(
            [
                f"{kind} drawn with the image, {found['figure']} by a net trained on the data",
                f"{found['generated']:.2f}",
                f"{found['real']:.2f} on images of the data",
            ]
        )
    for name, found in card["attributes"].items():
        rows.append(
            [
                f"share whose {name.replace('_', ' ')} is the one asked for",
                f"{found['agreement']:.2f}",
                f"{found['chance']:.2f} by chance",
            ]
        )
    rows.append(
        [
            "distance to the nearest training image (0 to 255)",
            f"{card['nearest_training_image_generated']:.0f}",
            f"{card['nearest_training_image_real']:.0f} of other images of the data",
        ]
    )
    return [f"{card['n_images']} drawn images", "drawn", "to compare"], rows


def advice(card: Mapping[str, Any]) -> list[str]:
    """Return what low figures mean, and what to do about them."""
    ratios = [found["ratio"] for found in card.get("label_agreement", {}).values()]
    if "audit_agreement_ratio" in card:
        ratios.append(card["audit_agreement_ratio"])
    said = []
    if ratios and min(ratios) < _LOW:
        said.append(
            "Many drawn images do not show what was asked for. The same command with more --steps "
            "goes on training and mostly mends that."
        )
    if card["nearest_training_image_ratio"] < _COPIES:
        said.append(
            "Drawn images lie near training photographs: it may repeat them. Fewer steps, or more "
            "photographs, help."
        )
    return said
