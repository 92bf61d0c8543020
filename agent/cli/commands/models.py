"""`shaping pretrain` and `label-head`: train models that draw images, and heads that label them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.commands import options
from agent.cli.commands.common import console, resolve, say, say_table
from memory.errors import SettingsError, WeightsError, some
from prompts.printable import one_line

if TYPE_CHECKING:
    from agent.loop.components import Components
    from eval.copies import Copies
    from tools.settings import LoraSettings
    from tools.targets import Target

# More steps are advised if the agreement, relative to that of real images, is below.
_LOW = 0.8
_HEAD_PRESET = "streets"

app = typer.Typer()
heads = typer.Typer(no_args_is_help=True, help="Teach an MTDM labels that it does not draw.")
app.add_typer(heads, name="label-head")


@app.command()
def pretrain(
    ctx: typer.Context,
    preset: options.Preset = None,
    target: options.Target = None,
    steps: Annotated[int | None, typer.Option(help="Training steps in all.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="[default: HOME/pretrain/PRESET or .../DATA]"),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="A text-to-image model to fine-tune, folder or hub id."),
    ] = None,
    lora_only: Annotated[
        bool, typer.Option("--lora-only", help="With --from: train a LoRA on images only.")
    ] = False,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Train the preset's MTDM on the generator split, or continue, and write its card.

    Its settings are those of pretrain, e.g. --set pretrain.batch_size=64. With --from MODEL, a
    Stable Diffusion model is fine-tuned to draw images with pixel labels, with the settings of
    pretrain.joint, e.g. --set pretrain.joint.rank=16; with --lora-only as well, to draw images
    only, with those of pretrain.lora.
    """
    if lora_only and from_ is None:
        raise SettingsError("--lora-only needs the model that is trained: add --from MODEL.")
    kind = "" if from_ is None else "lora" if lora_only else "joint"
    steps_key = f"pretrain.{kind}.steps" if kind else "pretrain.steps"
    more = [] if steps is None else [f"{steps_key}={steps}"]
    settings = resolve(ctx, *more, needs_weights=False)
    from agent.loop.components import Components
    from agent.loop.observer import counted
    from memory.user_folders import refuse_foreign
    from tools.pretraining.pretrain import pretrain as train
    from tools.targets import leakage

    components = Components(settings)
    device, source = components.device, components.pretrain_target
    name = source.name if target else Path(preset or options.PRESET).stem
    folder = output or settings.home / "pretrain" / (f"{name}-{kind}" if kind else name)
    chosen: Any = getattr(settings.pretrain, kind) if kind else settings.pretrain
    say(source.notice)
    refuse_foreign(
        folder, "train.json", ("bank", leakage.FILE, r"train-\d+\.safetensors", r"run\.json")
    )
    if target:
        _record_data(folder, source, chosen.steps)
    with counted(console(), "pretrain", "steps") as report:

        def show(step: int, loss: float, seconds: float) -> None:
            report(step, chosen.steps, f"loss {loss:.4f}")

        if from_ is None:
            train(source, settings.pretrain, folder, device, show)
        else:
            fine_tuned = _fine_tune(from_, components, chosen, folder, show)
    if from_ is not None:
        product = "adapter" if lora_only else "joint"
        console().print_json((fine_tuned / f"{product}.json").read_text("utf-8"))
        say(f"{product.capitalize()}: {fine_tuned}")
        return
    say(f"Trained for {chosen.steps} steps. Drawing images for its card and measuring them ...")
    _write_card(folder / "pipeline", components)
    if target and not output:
        words = ["shaping", "run", "--target", target, *(["--home", str(home)] if home else [])]
        for text in set_ or []:
            words += ["--set", text] if text.startswith("target.") else []
        say(f"Next: {shlex.join(words)}")


def _write_card(pipeline: Path, components: Components) -> None:
    """Evaluate images of an MTDM, write its card, and print its figures and advice."""
    from agent.loop.observer import counted
    from tools.pretraining.card import write_card

    source, watch = components.pretrain_target, partial(counted, console())
    train_judge = partial(components.classifier, source)
    card = write_card(pipeline, source, train_judge, components.device, watch)
    say_table(*card_table(card))
    for line in card_advice(card):
        say(line)
    say(f"Card: {pipeline / 'card.json'}")
    say(f"Pipeline: {pipeline}")


def _fine_tune(
    model: str,
    components: Components,
    chosen: LoraSettings,
    folder: Path,
    show: Callable[[int, float, float], None],
) -> Path:
    """Fine-tune a text-to-image model, with labels or as a LoRA; return the result's folder."""
    from tools.generators.text2image.model_options import ModelOptions
    from tools.plugins import read_options
    from tools.pretraining.finetuning import pretrain_lora
    from tools.pretraining.joint import pretrain_joint
    from tools.settings import JointSettings

    given = {**components.settings.generator.options, "weights": model}
    options = read_options("generator.options", ModelOptions, given)
    source, device = components.pretrain_target, components.device
    if isinstance(chosen, JointSettings):
        return pretrain_joint(source, options, chosen, folder, device, show)
    return pretrain_lora(source, options, chosen, folder, device, show)


def _record_data(folder: Path, source: Target, steps: int) -> None:
    """Record the training data of an MTDM, and print warnings about new words and near copies.

    Raises:
        WeightsError: It was trained on photographs of other splits, or its training is complete
            but lacks words of the data.
    """
    from agent.loop.user_dataset import N_WORDS
    from tools.targets import leakage

    leakage.check(folder, source)
    if new := leakage.unlearned_words(folder, source):
        done = leakage.trained_steps(folder)
        missing = f"the data have words that it has not learnt yet: {some(new, N_WORDS)}"
        if done >= steps:
            raise WeightsError(
                f"The MTDM in {folder} has been trained for {done} steps, and since then "
                f"{missing}. Train it further with --steps above {done}, e.g. --steps "
                f"{done + steps}, or move the folder away to start over."
            )
        say(f"It continues from step {done}; {missing}")
    leakage.record(folder, source)
    if found := leakage.near_copies(source):
        pairs = [one_line(f"{name} ({split}) of {other}") for name, split, other in found]
        say(
            f"{len(found)} photographs of other splits look like near copies of one of the split "
            f"generator: {some(pairs, N_WORDS)}. Figures on these are too good. Those of one "
            "object stay in one split if they share a name in the column group of attributes.csv."
        )


def card_table(card: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
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
    for kind, of_kind in card.get("label_agreement", {}).items():
        figure = f"{kind} drawn with the image, {of_kind['figure']} by a net trained on the data"
        real = f"{of_kind['real']:.2f} on images of the data"
        rows.append([figure, f"{of_kind['generated']:.2f}", real])
    for name, attribute in card["attributes"].items():
        figure = f"share whose {name.replace('_', ' ')} is the one asked for"
        chance = f"{attribute['chance']:.2f} by chance"
        rows.append([figure, f"{attribute['agreement']:.2f}", chance])
    copies = _copies_of(card)
    figure = "share of near copies of training photographs"
    planted = f"{copies.power.value:.2f} of planted copies"
    rows.append([figure, f"{copies.found.value:.2f}", planted])
    return [f"{card['n_images']} drawn images", "drawn", "to compare"], rows


def card_advice(card: Mapping[str, Any]) -> list[str]:
    """Return an explanation of low figures of a card, with advice."""
    ratios = [kind["ratio"] for kind in card.get("label_agreement", {}).values()]
    if "audit_agreement_ratio" in card:
        ratios.append(card["audit_agreement_ratio"])
    lines = []
    if ratios and min(ratios) < _LOW:
        lines.append(
            "Many drawn images do not show what was asked for. The same command with more --steps "
            "continues the training, which mostly helps."
        )
    copies = _copies_of(card)
    if copies.suspicious:
        lines.append(f"{copies.say()} Fewer steps, or more photographs, help.")
    return lines


def _copies_of(card: Mapping[str, Any]) -> Copies:
    from eval.copies import Copies

    return Copies.model_validate(card["copies"])


@heads.callback()
def _group() -> None:
    """Make `fit` a subcommand, although it is the only one."""


@heads.command()
def fit(
    ctx: typer.Context,
    preset: Annotated[
        str | None,
        typer.Argument(help="A preset, or the path of a .yaml file.", show_default=_HEAD_PRESET),
    ] = None,
    target: options.Target = None,
    n: Annotated[int, typer.Option("-n", min=2, help="Labelled images to learn from.")] = 40,
    check: Annotated[int, typer.Option(min=1, help="Other labelled images to test on.")] = 40,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each member.")] = 400,
    members: Annotated[int, typer.Option(min=1, help="Heads; they disagree where unsure.")] = 3,
    seed_: Annotated[int, typer.Option("--seed", min=0, help="Seed of images and training.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="[default: HOME/label-heads/PRESET]"),
    ] = None,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Train a head on labelled images of the generator split, and test it on other images of it."""
    settings = resolve(ctx, preset=_HEAD_PRESET)
    from agent.loop.components import Components
    from agent.loop.observer import counted
    from memory.user_folders import refuse_taken
    from tools.diffusion.weights import load_pipeline, weights_folder
    from tools.labelers import feature_decoder

    components = Components(settings)
    device, source = components.device, components.pretrain_target
    say(source.notice)
    folder = output or settings.home / "label-heads" / (
        source.name if target else Path(preset or _HEAD_PRESET).stem
    )
    refuse_taken(folder, (feature_decoder.TENSORS, feature_decoder.DESCRIPTION))
    training, others = feature_decoder.labelled(source.split("generator"), n, check, seed_)
    pipeline = load_pipeline(weights_folder(settings.generator.weights), device)
    wanted = feature_decoder.HeadSettings(steps=steps, members=members, seed=seed_)
    with counted(console(), "label head", "steps") as report:
        decoder = feature_decoder.fit(
            pipeline, training, source.pixel_classes, wanted, device, report, source.flips
        )
    figures = feature_decoder.validation_figures(decoder, others, source.pixel_classes)
    feature_decoder.save_head(folder, decoder, figures)
    say_table([f"on {len(others)} others", "value"], [[k, f"{v:.3f}"] for k, v in figures.items()])
    say(f"Label head: {folder}")
    say(
        "To use it: --set labeler.name=feature_decoder "
        f"--set 'labeler.options={{head: \"{folder.resolve()}\"}}'"
    )
