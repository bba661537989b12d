"""`python -m mlx_tinylm` and the command `mlx-tinylm`, which see to Ctrl-C before anything else is imported."""


def main() -> None:
    try:
        import signal
    except KeyboardInterrupt:
        leave()
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not where a shell has Ctrl-C ignored
        signal.signal(signal.SIGINT, interrupted)
    from mlx_tinylm.cli.main import main as program

    try:
        program(prog_name="mlx-tinylm")
    finally:  # all is done: an exception in what Python still has to do would only be printed
        if signal.getsignal(signal.SIGINT) == interrupted:
            signal.signal(signal.SIGINT, leave)


def interrupted(number: int, frame: object) -> None:
    """Ctrl-C ends a command by an exception, an import at once: there an exception may be lost, or become another."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):  # type: ignore[attr-defined]
            leave()
        frame = frame.f_back  # type: ignore[attr-defined]
    raise KeyboardInterrupt


def leave(*_: object) -> None:
    """End the process with nothing but a newline, and the exit code that shells know."""
    import os

    os.write(2, b"\n")
    os._exit(130)


if __name__ == "__main__":
    main()
