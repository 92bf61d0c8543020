"""Which share of the hardware's speed does a generator reach?

    python -m benchmarks.generate --preset solar --images 64
    python -m benchmarks.generate --model FOLDER --set generator.options.dtype=float16

Draws a batch as a session does (prompts to a parquet shard, without the audit), alternating with a
bare loop: the same calls of the denoiser, and of the VAE's decoder if there is one, on recorded
inputs, and nothing else. Prints images per second of both, the share of time in the denoiser, and
the ratio. The fastest of several turns counts, because disturbances only add time.
"""

from __future__ import annotations

import torch

from benchmarks.harness import Benchmark, Figures, options, uniform_prompts
from benchmarks.networks import Calls, networks, now
from tools.data.shards import write_shard
from tools.generate_batch import draw


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__, seeds=1)
    parser.add_argument("--model", help="a diffusers text-to-image model, drawn by text2image")
    parser.add_argument("--images", type=int, default=64, help="images of a batch")
    parser.add_argument("--turns", type=int, default=5)
    chosen = parser.parse_args()
    named = ["generator.name=text2image", f"generator.weights={chosen.model}"]
    bench = Benchmark(chosen, named if chosen.model else [])
    components, device = bench.components, bench.components.device
    generator, names = components.bare_generator, list(components.target.class_names)

    def figures(seed: int) -> Figures:
        wanted = uniform_prompts(components, chosen.images, seed)

        def whole() -> None:
            samples, _ = draw(wanted, seed, generator, names)
            texts, ids = [p.text for p, _ in wanted], [p.id for p, _ in wanted]
            write_shard(samples, texts, ids, [index for _, index in wanted], names)

        calls = Calls(networks(generator), device)
        calls.record(whole)
        calls.replay()
        times: dict[str, list[float]] = {"whole": [], "bare": []}
        for _ in range(chosen.turns):
            for name, work in (("whole", whole), ("bare", calls.replay)):
                begun = now(device)
                work()
                times[name].append(now(device) - begun)
        begun = now(device)
        calls.measure(whole)
        measured_s = now(device) - begun
        best_s = {name: min(values) for name, values in times.items()}
        denoiser_s = sum(s for name, s in calls.elapsed_s.items() if name != "vae")
        speeds = {
            "images per second": len(wanted) / best_s["whole"],
            "bare loop, images per second": len(wanted) / best_s["bare"],
            "ratio to the bare loop": best_s["bare"] / best_s["whole"],
            "share of time in the denoiser": denoiser_s / measured_s,
        }
        if device.startswith("cuda"):
            speeds["peak memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
        return {f"{chosen.model or chosen.preset}, {len(wanted)} images at once": speeds}

    # Not `bench.seeds`, because a speed is never read from an earlier run.
    bench.means(["drawn", "figure"], [figures(chosen.first_seed)])


if __name__ == "__main__":
    main()
