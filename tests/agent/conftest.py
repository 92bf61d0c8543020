"""A home folder whose target and judge are ready, and a server that plays a language model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.config.settings import Settings, load_settings
from agent.loop.components import Components
from tests.agent.fake_llm import FakeLLM, serve
from tests.agent.quick import QUICK, MakeSettings


@pytest.fixture(scope="session")
def prepared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the trained judge in its cache."""
    home = tmp_path_factory.mktemp("home")
    _ = Components(load_settings("solar", [*QUICK, f"home={home}"], {})).judge
    return home


@pytest.fixture
def make_settings(prepared_home: Path, tmp_path: Path) -> MakeSettings:
    """Settings of a quick session; every home of one test has a warm cache."""

    def make(*overrides: str, home: str = "home", quick: Sequence[str] = QUICK) -> Settings:
        folder = tmp_path / home
        if not folder.exists():
            folder.mkdir()
            shutil.copytree(prepared_home / "cache", folder / "cache")
        return load_settings("solar", [*quick, f"home={folder}", *overrides], {})

    return make


@pytest.fixture
def make_elpv_settings(make_settings: MakeSettings, elpv_cache: Path) -> MakeSettings:
    """The same with the photographs of elpv."""

    def make(*overrides: str, home: str = "home") -> Settings:
        settings = make_settings("target.name=elpv", *overrides, home=home)
        shutil.copytree(elpv_cache, settings.home / "cache", dirs_exist_ok=True)
        return settings

    return make


@pytest.fixture
def fake_llm(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLLM]:
    """A FakeLLM, to which the brains openai:ANY and ollama:ANY are directed by the environment."""
    with serve() as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.openai_url)
        monkeypatch.setenv("OPENAI_API_KEY", fake.key)
        monkeypatch.setenv("OLLAMA_HOST", fake.ollama_url)
        yield fake
