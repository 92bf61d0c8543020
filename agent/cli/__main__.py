"""`python -m agent.cli`, and the command `shaping`."""


def main() -> None:
    """Run the command; Ctrl-C while its modules load also ends it without a traceback."""
    try:
        from agent.cli import app

        app.main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
