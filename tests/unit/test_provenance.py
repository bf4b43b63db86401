"""Where a record comes from: the commit of the checkout that ran."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import secateurs
from secateurs.pipeline.provenance import commit

ROOT = Path(secateurs.__file__).parents[2]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the package does not run from a git checkout")
def test_the_commit_is_that_of_the_checkout() -> None:
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    found = commit()
    assert found is not None
    assert head.startswith(found.removesuffix("+dirty")) and len(found) >= 12
