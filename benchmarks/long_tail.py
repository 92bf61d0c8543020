"""Design A: does shaping pay on a long tail of real photographs? (docs/results/protocol.md)

OMP_NUM_THREADS=1 python -m benchmarks.long_tail public --home FOLDER --seeds 100-109 --resume
"""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.config.settings import Settings, load_settings
from agent.loop.components import Components
from benchmarks import fashion_mnist
from tools.pretraining.pretrain import pretrain

PRESET = str(Path(__file__).with_name("fashion_mnist.yaml"))
GENERATORS = ("public", "tail")
# An MTDM of a long tail sees its classes more evenly; that of `public` has equal classes.
_EXPONENT = {"public": 0.0, "tail": 0.5}
_EVERY = 250


def settings_of(home: Path, data: Path, generator: Path, *overrides: str) -> Settings:
    """Return the settings of a seed: its photographs, and the generator's weights."""
    return load_settings(
        PRESET,
        [
            f"home={home}",
            f"target.options.path={data}",
            f"generator.weights={generator / 'pipeline'}",
            *overrides,
        ],
    )


def train_generator(kind: str, home: Path, data: Path) -> Path:
    """Train, or go on to train, the MTDM on the photographs of `data`; return its folder."""
    folder = home / f"mtdm-{data.name}"
    settings = settings_of(
        home, data, folder, f"pretrain.class_sampling_exponent={_EXPONENT[kind]}"
    )

    def progress(step: int, loss: float, seconds: float) -> None:
        if step % _EVERY == 0:
            print(f"{data.name}: step {step}, loss {loss:.4f}, {seconds:.0f} s", flush=True)

    pretrain(Components(settings).target, settings.pretrain, folder, progress=progress)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("generator", choices=GENERATORS)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--source", type=Path, default=fashion_mnist.SOURCE)
    parser.add_argument("--seeds", default="0-9")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        data = fashion_mnist.write_tail(options.home / "data", seed, options.source)
        source = data
        if options.generator == "public":
            source = fashion_mnist.write_public(options.home / "data", options.source)
        train_generator(options.generator, options.home, source)


if __name__ == "__main__":
    main()
