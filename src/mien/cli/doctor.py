"""``mien doctor``."""

# Commands import what is slow to import (OpenCV, ONNX Runtime, PyAV, pydantic, rich) themselves,
# so that help and messages are there at once.
# ruff: noqa: PLC0415

from __future__ import annotations

from mien.cli.options import (
    AllowFallback,
    Config,
    Json,
    Provider,
    Verbose,
    settings_of,
    zoo_of,
)
from mien.cli.terminal import Terminal


def doctor(
    provider: Provider = None,
    allow_fallback: AllowFallback = False,
    config: Config = None,
    as_json: Json = False,
    verbose: Verbose = 0,
) -> int:
    """Look at what this machine has and lacks, and say what mends it.

    Exit status 0 if the default chain can run, else 1.
    """
    terminal = Terminal(False, verbose, as_json)

    def work() -> int:
        from mien import doctor

        settings = settings_of(config, provider=provider, allow_fallback=allow_fallback or None)
        found = doctor.Examination(zoo_of(settings)).run()
        if as_json:
            terminal.print_json(found.as_json())
        else:
            terminal.say(doctor.show(found))
        return 0 if found.ok else 1

    return terminal.run(work)
