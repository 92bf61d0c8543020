"""Assignment of prompts to the classes of a class-conditional generator."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

from memory.errors import SettingsError, unknown
from prompts.vocabulary import Vocabulary, load_vocabulary

_WORD = re.compile(r"\w+(?:-\w+)*")


class ClassWords:
    """Words that name the classes of a generator.

    Args:
        names: Names of its classes in order, with synonyms separated by commas, as in ImageNet.
        serves: Class of the generator -> class of the target. Empty: each serves its own name.
        vocabulary: Parses the class of the target from a prompt. None: only names are recognised.

    Attributes:
        rows: Returns the classes that serve a prompt, see `_find_rows`.

    Raises:
        SettingsError: A class of the generator or of the target is unknown, or no class serves a
            class of the vocabulary.
    """

    def __init__(
        self, names: Sequence[str], serves: Mapping[str, str], vocabulary: Vocabulary | None
    ) -> None:
        for name in serves:
            if name not in names:
                raise SettingsError(unknown("class of the generator", name, names))
        served = dict(serves) or {name: name for name in names}
        if vocabulary is not None:
            _check_served(vocabulary, served)
        self._vocabulary = vocabulary
        self._rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            if name in served:
                self._rows.setdefault(served[name], []).append(row)
        synonyms = [
            (_plain(synonym), served[name], [row])
            for row, name in enumerate(names)
            if name in served
            for synonym in name.split(",")
        ]
        targets = [(_plain(target), target, rows) for target, rows in self._rows.items()]
        self._phrases = [phrase for phrase in (*targets, *synonyms) if phrase[0]]
        self._words = {word for phrase, _, _ in self._phrases for word in phrase.split()}
        self._rest = _without_attributes(vocabulary or load_vocabulary("photographs"))
        self.rows = cache(self._find_rows)

    def undrawn(self, text: str) -> list[str]:
        """Return the distinct words of a text that do not name its class, in order."""
        return [word for word in self._rest.foreign_words(text) if word not in self._words]

    def _find_rows(self, text: str) -> list[int]:
        """Return the classes, at least one, that serve a prompt.

        This is the class of the generator that the text names, or else all classes that serve the
        class of the target that it names.

        Raises:
            SettingsError: The text names no class.
        """
        words = f" {_plain(text)} "
        named = None
        if self._vocabulary is not None:
            named = self._vocabulary.class_name(self._vocabulary.parse(text))
        # The longest phrase wins; ties go to a class of the generator over one of the target.
        candidates = [
            (len(phrase), len(rows) == 1, rows)
            for phrase, target, rows in self._phrases
            if f" {phrase} " in words and named in (None, target)
        ]
        if candidates:
            return max(candidates)[2]
        if named is not None:
            return self._rows[named]
        classes = list(self._rows)
        more = f" and {len(classes) - 20} more" if len(classes) > 20 else ""
        raise SettingsError(
            f"The prompt {text[:200]!r} names no class that the generator 'class_gan' draws: "
            f"{', '.join(classes[:20])}{more}. Name one, or set generator.options.vocabulary or "
            "generator.options.classes."
        )


def _check_served(vocabulary: Vocabulary, served: Mapping[str, str]) -> None:
    for target in served.values():
        if target not in vocabulary.classes:
            raise SettingsError(unknown("class of the target", target, vocabulary.classes))
    if missing := [name for name in vocabulary.classes if name not in served.values()]:
        raise SettingsError(
            f"No class of the generator 'class_gan' serves {', '.join(missing)} of the vocabulary "
            f"{vocabulary.name}. Set generator.options.classes={{GENERATOR CLASS: TARGET CLASS}}."
        )


def _without_attributes(vocabulary: Vocabulary) -> Vocabulary:
    """Return a vocabulary with only the words for classes and subjects."""
    key = vocabulary.class_attribute
    kept = {key: vocabulary.attributes[key]} if key else {}
    return vocabulary.model_copy(update={"attributes": kept, "requires": {}})


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.lower().replace("_", " ")))
