"""Terminal chat: a prompt with history and completion, or lines of a pipe."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from agent.chat.commands import COMMANDS
from agent.chat.conversation import Conversation
from agent.chat.live import LiveSession
from agent.chat.overview import say_progress
from agent.config.settings import Settings
from agent.session.folder import Session, next_name, open_session
from eval.report.terminal import Pictures, draw

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document

_LEAVE = ("/quit", "/exit")


def chat(
    settings: Settings, auto_s: float | None, stdin: IO[str], terminal: Mapping[str, str]
) -> None:
    """Open a session and chat about it until the user leaves or the input ends.

    Leaving stops the session at its next safe point; the same command, or `shaping resume NAME`,
    continues it.

    Args:
        settings: Settings of the session.
        auto_s: Seconds after which a plan is approved without an answer; None: never.
        stdin: Terminal, or lines of a pipe.
        terminal: Environment variables that describe the terminal.
    """
    name = settings.session.name or next_name(settings.home, settings.stem)
    with open_session(settings, name) as session:
        if stdin.isatty() and sys.stdout.isatty():
            _at_terminal(session, auto_s, terminal)
        else:
            _from_lines(session, auto_s, stdin)


def _at_terminal(session: Session, auto_s: float | None, terminal: Mapping[str, str]) -> None:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.patch_stdout import patch_stdout

    history = session.settings.home / "chat-history"
    with patch_stdout(raw=True):
        # Created within patch_stdout, so that it prints above the prompt.
        console = Console(file=sys.stdout, force_terminal=True, highlight=False)
        with _conversation(session, auto_s, console, _can_show(terminal)) as conversation:
            live = conversation.live
            prompt: PromptSession[str] = PromptSession(
                history=FileHistory(str(history)),
                completer=_completer(conversation),
                complete_while_typing=True,
                bottom_toolbar=lambda: f" {session.name}  {say_progress(live)}  /help",
                refresh_interval=0.5,
            )
            while True:
                try:
                    line = prompt.prompt("> ")
                except KeyboardInterrupt:
                    console.print("Ctrl-D leaves; /help lists commands.", style="dim")
                    continue
                except EOFError:
                    break
                if line.strip() in _LEAVE:
                    break
                draw(console, conversation.say(line), _can_show(terminal))
            _leave(live, console)


def _from_lines(session: Session, auto_s: float | None, stdin: IO[str]) -> None:
    console = Console(highlight=False, soft_wrap=True, width=160)
    with _conversation(session, auto_s, console, None) as conversation:
        for line in stdin:
            line = line.rstrip("\n")
            if line.strip() == "/wait":
                conversation.live.wait()
                _drained(conversation)
                continue
            if line.strip() in _LEAVE:
                break
            console.print(Text(f"> {line[:200]}"))
            draw(console, conversation.say(line), None)
            conversation.await_answer()
            _drained(conversation)
        _leave(conversation.live, console)


@contextmanager
def _conversation(
    session: Session, auto_s: float | None, console: Console, pictures: Pictures | None
) -> Iterator[Conversation]:
    """Start a session and print its events while the block runs."""
    live = LiveSession(session, auto_s)
    conversation = Conversation(live)
    console.print(Text(f"Session {session.name} in {session.folder}", "bold"))
    console.print(Text(live.components.target.notice, "dim"))
    if session.journal.torn:
        console.print(
            Text(f"A torn last line of the journal was put aside: {session.journal.torn}", "yellow")
        )
    events = live.listen()

    def listen() -> None:
        while (event := events.get()).kind != "end":
            if event.kind == "drained":
                event.record.set()
            else:
                draw(console, conversation.show(event), pictures)

    thread = threading.Thread(target=listen, name="printer", daemon=True)
    thread.start()
    live.start()
    try:
        yield conversation
    finally:
        live.close()
        live.tell("end")
        thread.join()


def _drained(conversation: Conversation) -> None:
    """Wait until all events so far are printed."""
    printed = threading.Event()
    conversation.live.tell("drained", record=printed)
    printed.wait()


def _leave(live: LiveSession, console: Console) -> None:
    if live.progress.state in ("working", "waiting", "paused"):
        console.print(Text("Stopping at the next safe point; nothing is lost.", "dim"))
    name = live.session.name
    live.close()
    console.print(Text(f"To go on: shaping chat {name}, or shaping resume {name}", "dim"))


def _can_show(terminal: Mapping[str, str]) -> Pictures | None:
    """Return how the terminal shows pictures; None: not at all."""
    if terminal.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm"):
        return "iterm"
    if "KITTY_WINDOW_ID" in terminal or terminal.get("TERM") == "xterm-kitty":
        return "kitty"
    has_colours = "256color" in terminal.get("TERM", "") or "COLORTERM" in terminal
    return "blocks" if has_colours else None


def _completer(conversation: Conversation) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class Words(Completer):
        """Completer of commands, then of ids, slices and attribute values."""

        def get_completions(
            self, document: Document, complete_event: CompleteEvent
        ) -> Iterator[Completion]:
            before = document.text_before_cursor.lstrip()
            if before.startswith("/") and " " not in before:
                for name, command in COMMANDS.items():
                    if name.startswith(before[1:].lower()):
                        yield Completion(f"/{name}", -len(before), display_meta=command.help)
                return
            word = before.rpartition(" ")[2].strip("\"'")
            if not word:
                return
            names = [*conversation.words(), *(conversation.ids() if before.startswith("/") else [])]
            for name in names:
                if name.startswith(word.lower()) and name != word:
                    yield Completion(name, -len(word))

    return Words()
