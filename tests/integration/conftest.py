"""Makes complete runs fast, and runs commands in this process."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import pytest

from secateurs import cli


@pytest.fixture(scope="session", autouse=True)
def fast_runs(short_measurements: None) -> None:
    """Measure briefly, and exclude imported modules from garbage collection: every training ends with two collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Function that runs ``secateurs ARGUMENTS`` in this process and returns exit status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["secateurs", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call
