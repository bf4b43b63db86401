"""The command line honours the environment variables of other tools, and completes options."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from transformers.utils import logging as transformers_logging

from secateurs.checkpoint.load_model import load
from secateurs.cli.console import configure_logging, console
from secateurs.errors import CheckpointError, DataError
from secateurs.tasks.data.sources import read_splits

CODE = """
import sys
from secateurs import cli
sys.argv[0] = "secateurs"
try:
    cli.main()
finally:
    assert "torch" not in sys.modules
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, with further environment variables."""
    values = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-c", CODE, *arguments]
    return subprocess.run(command, env={**values, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize(("environment", "red"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color(environment: dict[str, str], red: bool) -> None:
    done = run("prune", FORCE_COLOR="1", **environment)
    assert done.returncode == 2
    assert "--out is missing" in done.stderr
    assert ("31m" in done.stderr) == red


def test_options_are_completed_without_torch() -> None:
    done = run(_SECATEURS_COMPLETE="complete_bash", COMP_WORDS="secateurs prune --seq", COMP_CWORD="2")
    assert done.stdout.split() == ["--sequence-length"], done.stderr


@pytest.fixture
def levels() -> Iterator[None]:
    """Restore what ``configure_logging`` changes."""
    loggers = [
        logging.getLogger(name) for name in ("secateurs", "transformers", "datasets", "httpx", "huggingface_hub")
    ]
    before = [(logger, logger.level, logger.handlers) for logger in loggers]
    was_quiet = console.quiet
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers
    console.quiet = was_quiet


@pytest.mark.usefixtures("levels")
def test_the_verbosity_of_transformers_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    transformers_logging.set_verbosity_info()
    configure_logging()
    assert transformers_logging.get_verbosity() == logging.ERROR
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    transformers_logging.set_verbosity_info()
    configure_logging()
    assert transformers_logging.get_verbosity() == logging.INFO


@pytest.mark.usefixtures("levels")
def test_quiet_prints_errors_only() -> None:
    configure_logging(quiet=True)
    assert console.quiet
    assert logging.getLogger("secateurs").level == logging.ERROR


def test_offline_means_that_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub would be asked through ``httpx``; what is missing is said to be missing from the cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    options = {"dtype": "auto", "device": "cpu", "trust_remote_code": False, "revision": None}
    with pytest.raises(
        CheckpointError, match="no such folder here, the cache does not have it, and HF_HUB_OFFLINE is set"
    ):
        load("secateurs-test/nowhere", "AutoModel", **options)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        read_splits("secateurs-test/nowhere")
