"""The command `shaping`: parse, build, print. Heavy imports stand inside the commands."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from agent.cli.commands import chat, compare, export, labelhead, overnight, replay, trace, web
from agent.cli.commands.common import (
    PRESET,
    QUOTES,
    HomeOption,
    MemoryUrlOption,
    PresetArgument,
    SeedOption,
    SetOption,
    TargetOption,
    complain,
    console,
    continued,
    note,
    resolve,
    say,
    say_table,
)
from agent.cli.commands.overnight import (
    DetachOption,
    MaxGpuHoursOption,
    MaxHoursOption,
    MaxImagesOption,
    OnFinishOption,
    PatienceOption,
    TargetScoreOption,
)
from memory.errors import (
    BrainError,
    DataError,
    SessionError,
    SettingsError,
    ShapingError,
    Stopped,
    StorageError,
    WeightsError,
    some,
)

if TYPE_CHECKING:
    from memory.chroma import MemoryIndex

EPILOG = (
    "Exit codes: 0 done; 1 another failure; 2 settings, data or weights that cannot be used; "
    "3 a disk that is full or cannot be written; 4 a session in use or damaged; 5 a language "
    "model that cannot be used; 6 a session ended on request, to be resumed; 130 interrupted."
)


# Of click, which Typer has a copy of: its only usage error that Typer names is a kind of it.
UsageError: Any = typer.BadParameter.__mro__[1]


class Explained(TyperGroup):
    """A group of commands whose errors are explained in a line and by the exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn a ShapingError or Ctrl-C into a message and an exit code."""
        words = list(ctx.args)
        try:
            return super().invoke(ctx)
        except UsageError as error:
            if "unexpected extra argument" in error.message and "--target" in words:
                error.message += f". {QUOTES}"
            raise
        except ShapingError as error:
            complain("Stopped:" if isinstance(error, Stopped) else "Error:", str(error))
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt as error:
            complain("Interrupted;", "run the same command again to continue.")
            raise typer.Exit(130) from error


def exit_code(error: ShapingError) -> int:
    """Return the exit code of an error, see EPILOG."""
    if isinstance(error, SettingsError | DataError | WeightsError):
        return 2
    if isinstance(error, StorageError):
        return 3
    if isinstance(error, SessionError):
        return 4
    if isinstance(error, BrainError):
        return 5
    return 6 if isinstance(error, Stopped) else 1


app = typer.Typer(
    cls=Explained,
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Shape synthetic training data by what a model still gets wrong on real photographs.",
)
memory_app = typer.Typer(no_args_is_help=True, help="Search what all sessions have learnt.")
app.add_typer(memory_app, name="memory")
app.add_typer(chat.app)
app.add_typer(compare.app)
app.add_typer(overnight.app)
app.add_typer(export.app)
app.add_typer(labelhead.app)
app.add_typer(replay.app)
app.add_typer(trace.app)
app.add_typer(web.app)


@app.command()
def run(
    preset: PresetArgument = None,
    target: TargetOption = None,
    rounds: Annotated[
        int | None, typer.Option("--max-rounds", "--rounds", help="Rounds in all.")
    ] = None,
    images_per_round: Annotated[int | None, typer.Option(help="Images of a round.")] = None,
    session: Annotated[
        str | None, typer.Option(help="Name of the session; one that exists is continued.")
    ] = None,
    seed: SeedOption = None,
    brain: Annotated[
        str | None,
        typer.Option(help="Who decides: policy:PLANNER, openai:MODEL, ollama:MODEL."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens that a language model may take in all.")
    ] = None,
    max_usd: Annotated[
        float | None, typer.Option(help="US dollars that it may cost; needs llm.prices.")
    ] = None,
    max_hours: MaxHoursOption = None,
    max_gpu_hours: MaxGpuHoursOption = None,
    max_images: MaxImagesOption = None,
    target_score: TargetScoreOption = None,
    patience: PatienceOption = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Let the agent ask you questions.")
    ] = False,
    detach: DetachOption = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show settings, first plan and estimates; write nothing."),
    ] = False,
    on_finish: OnFinishOption = None,
    compute: Annotated[
        str | None,
        typer.Option(metavar="local|ray[:ADDRESS]", help="Where images are drawn and audited."),
    ] = None,
    memory_url: MemoryUrlOption = None,
    home: HomeOption = None,
    set_: SetOption = None,
) -> None:
    """Run a session, or continue it, until a limit is reached, and write its report.

    Without PRESET and --target, a session that exists goes on by its own settings.
    """
    from agent.session.folder import has_session

    options = {
        "session.rounds": rounds,
        "session.images_per_round": images_per_round,
        "session.name": session,
        "session.seed": seed,
        "brain": brain,
        "llm.max_tokens": max_tokens,
        "llm.max_usd": max_usd,
        "limits.max_hours": max_hours,
        "limits.max_gpu_hours": max_gpu_hours,
        "limits.max_images": max_images,
        "limits.target_score": target_score,
        "limits.patience": patience,
        "session.on_finish": on_finish,
        "compute.place": compute,
        "memory.url": memory_url,
    }
    base = resolve(home=home).home if session and not preset and not target else None
    if session and base and has_session(base, session):
        settings = continued(base, session, set_, options)
    else:
        settings = resolve(preset, set_, options, home, target)
    if dry_run:
        from agent.autonomous.dry_run import show

        show(settings, console())
    else:
        overnight.start(settings, detach, interactive)


@app.command()
def sessions(home: HomeOption = None) -> None:
    """List the sessions, the latest first."""
    from agent.session.folder import list_sessions

    folder = resolve(home=home).home
    rows = [
        [
            info.name,
            info.data,
            f"{info.rounds_done}/{info.rounds}",
            "" if info.score is None else f"{info.score:.3f}",
            info.updated[:16].replace("T", " "),
            info.state,
        ]
        for info in list_sessions(folder)
    ]
    if rows:
        say_table(["session", "data", "rounds", "score", "updated (UTC)", "state"], rows)
    else:
        say(f"There are no sessions under {folder} yet. Start one with: shaping run")


@app.command()
def report(
    session: Annotated[str | None, typer.Argument(help="[default: the latest session]")] = None,
    home: HomeOption = None,
) -> None:
    """Write the report of a session again."""
    from agent.autonomous.report import write_report
    from agent.session.folder import latest

    folder = resolve(home=home).home
    say(f"Report: {write_report(folder, session or latest(folder))}")


@app.command("presets")
def list_presets() -> None:
    """List the presets."""
    from agent.config.settings import presets

    say_table(["preset", "what it is"], presets())


@app.command()
def pretrain(
    preset: PresetArgument = None,
    target: TargetOption = None,
    steps: Annotated[int | None, typer.Option(help="Training steps in all.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="[default: HOME/pretrain/PRESET or .../DATA]"),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="A text-to-image model of others to train, folder or hub id."),
    ] = None,
    lora_only: Annotated[
        bool, typer.Option("--lora-only", help="With --from: learn images alone, as a LoRA.")
    ] = False,
    home: HomeOption = None,
    set_: SetOption = None,
) -> None:
    """Train the preset's MTDM on the generator split, or go on, and write its card.

    The training has settings of its own, e.g. --set pretrain.batch_size=64. With --from MODEL, a
    Stable Diffusion model learns to draw the labels of pixels too; its settings are those of
    pretrain.joint, e.g. --set pretrain.joint.rank=16. With --lora-only as well it learns how the
    images look, by those of pretrain.lora.
    """
    if lora_only and from_ is None:
        raise SettingsError("--lora-only needs the model that is trained: add --from MODEL.")
    kind = "" if from_ is None else "lora" if lora_only else "joint"
    steps_key = f"pretrain.{kind}.steps" if kind else "pretrain.steps"
    settings = resolve(
        preset, set_, {steps_key: steps, "home": home}, target=target, needs_weights=False
    )
    from agent.cli.commands import cards
    from agent.loop.components import Components
    from agent.loop.progress import counted
    from agent.loop.user_dataset import N_WORDS
    from tools.pretraining.card import write_card
    from tools.pretraining.pretrain import pretrain as train
    from tools.targets import leakage

    components = Components(settings)
    device, source = components.device, components.pretrain_target
    name = source.name if target else Path(preset or PRESET).stem
    folder = output or settings.home / "pretrain" / (f"{name}-{kind}" if kind else name)
    chosen: Any = getattr(settings.pretrain, kind) if kind else settings.pretrain
    say(source.notice)
    if target:
        leakage.check(folder, source)
        if new := leakage.unlearnt(folder, source):
            done = leakage.steps_done(folder)
            told = f"the data have words that it has not learnt yet: {some(new, N_WORDS)}"
            if done >= chosen.steps:
                raise WeightsError(
                    f"The MTDM in {folder} has been trained for {done} steps, and since then "
                    f"{told}. Train it further with --steps above {done}, e.g. --steps "
                    f"{done + chosen.steps}, or move the folder away to begin anew."
                )
            say(f"It goes on from step {done}; {told}")
        leakage.note(folder, source)
    with counted(console(), "pretrain", "steps") as report:

        def show(step: int, loss: float, seconds: float) -> None:
            report(step, chosen.steps, f"loss {loss:.4f}")

        if from_ is not None:
            from tools.generators.text2image.model_options import ModelOptions, read_options
            from tools.pretraining.joint import pretrain_joint
            from tools.pretraining.lora import pretrain_lora

            options = read_options(ModelOptions, {**settings.generator.options, "weights": from_})
            begin = pretrain_lora if lora_only else pretrain_joint
            made = begin(source, options, chosen, folder, device, show)
        else:
            train(source, settings.pretrain, folder, device, show)
    if from_ is not None:
        what = "adapter" if lora_only else "joint"
        console().print_json((made / f"{what}.json").read_text("utf-8"))
        say(f"{what.capitalize()}: {made}")
        return
    pipeline = folder / "pipeline"
    say(f"Trained for {chosen.steps} steps. Drawing images for its card and measuring them ...")
    watch = partial(counted, console())
    card = write_card(pipeline, source, partial(components.classifier, source), device, watch)
    say_table(*cards.table(card))
    for line in cards.advice(card):
        say(line)
    say(f"Card: {pipeline / 'card.json'}")
    say(f"Pipeline: {pipeline}")
    if target and not output:
        words = ["shaping", "run", "--target", target, *(["--home", str(home)] if home else [])]
        own = [text for text in set_ or [] if text.startswith("target.")]
        say(f"Next: {shlex.join([*words, *(word for text in own for word in ('--set', text))])}")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help='E.g. "a dark polycrystalline solar cell".')],
    n: Annotated[int, typer.Option("-n", min=1, help="Number of images.")] = 16,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the images.")] = Path(
        "generated"
    ),
    preset: Annotated[
        str | None, typer.Option(help="Preset whose generator draws.", show_default=PRESET)
    ] = None,
    target: TargetOption = None,
    seed: SeedOption = None,
    home: HomeOption = None,
    set_: SetOption = None,
) -> None:
    """Draw images of one prompt."""
    settings = resolve(preset, set_, {"session.seed": seed, "home": home}, target=target)
    from agent.cli import generate

    say(f"Montage: {generate.generate(settings, prompt, n, output, console())}")


@app.command()
def prompts(
    request: Annotated[str, typer.Argument(help='E.g. "a dark poly cell with a large dark area".')],
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="Number of prompts.")] = 50,
    brain: Annotated[
        str | None, typer.Option(help="Who writes them beside the grammar, e.g. openai:MODEL.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=100, help="Images of each prompt.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="JSON file of prompts and figures."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Preset whose generator draws.", show_default=PRESET)
    ] = None,
    target: TargetOption = None,
    seed: SeedOption = None,
    home: HomeOption = None,
    set_: SetOption = None,
) -> None:
    """Write different prompts for a request, by a brain and by the grammar, and measure both."""
    settings = resolve(
        preset, set_, {"session.seed": seed, "brain": brain, "home": home}, target=target
    )
    from agent.cli import prompt_study
    from memory.files import write_json

    comparison = prompt_study.compare(settings, request, n, images, console())
    for line in prompt_study.notes(comparison):
        say(line)
    say_table(*prompt_study.table(comparison))
    if output:
        write_json(output, comparison.to_json())
        say(f"Prompts and figures: {output}")


@app.command()
def doctor(
    brain: Annotated[
        str | None,
        typer.Option(help="Also ask this one for a tool call, e.g. ollama:MODEL."),
    ] = None,
    home: HomeOption = None,
    set_: SetOption = None,
) -> None:
    """Show versions, device, memory and models, what is missing and what adds it."""
    settings = resolve(set_=set_, options={"brain": brain, "home": home})
    from agent.cli import doctor

    found = doctor.checks(settings.home)
    if brain is not None:
        found += doctor.brain(settings)
    rows = [
        ["ok" if c.ok else "MISSING" if c.required else "note", c.name, c.detail, c.fix]
        for c in found
    ]
    say_table(["", "what", "found", "what to do"], rows)
    if not all(check.ok for check in found if check.required):
        raise typer.Exit(1)


@memory_app.command("search")
def memory_search(
    query: Annotated[str, typer.Argument(help='E.g. "dark poly cell".')],
    n: Annotated[int, typer.Option("-n", min=1, help="Number of hits.")] = 5,
    kind: Annotated[str | None, typer.Option(help="prompt, failure or lesson.")] = None,
    target: Annotated[str | None, typer.Option(help="Only of this target.")] = None,
    memory_url: MemoryUrlOption = None,
    home: HomeOption = None,
) -> None:
    """Find the prompts, failures and lessons nearest in meaning to a text."""
    hits = _memory(home, memory_url).search(query, n=n, kind=kind, target=target)
    rows = [
        [f"{hit.similarity:.2f}", hit.item.kind, hit.item.session, hit.item.round, hit.item.text]
        for hit in hits
    ]
    if rows:
        say_table(["similarity", "kind", "session", "round", "text"], rows)
    else:
        say("Nothing is remembered that fits.")


@memory_app.command("stats")
def memory_stats(memory_url: MemoryUrlOption = None, home: HomeOption = None) -> None:
    """Show how much is remembered, and of what."""
    say_table(["what", "figure"], list(_memory(home, memory_url).stats().items()))


@memory_app.command("reindex")
def memory_reindex(memory_url: MemoryUrlOption = None, home: HomeOption = None) -> None:
    """Rebuild the index from the journals of all sessions."""
    from agent.session.folder import journals

    found = journals(resolve(home=home).home)
    n_items = _memory(home, memory_url).reindex(found)
    say(f"{n_items} items from {len(found)} sessions.")


def _memory(home: Path | None, url: str | None) -> MemoryIndex:
    from agent.session.folder import memory_of

    settings = resolve(options={"memory.url": url}, home=home)
    # Chroma and the sentence encoder take seconds to load.
    note("Opening the memory ...")
    return memory_of(settings.home, say, settings.memory.url)


def main() -> None:
    """Entry point of the command `shaping`."""
    app()


if __name__ == "__main__":
    main()
