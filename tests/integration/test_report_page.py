"""The page in Chromium: no element overflows, no file is loaded and no error is logged."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import reports
from secateurs.report.page import render
from secateurs.report.report import Report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--window-size=1400,1000",
)
WIDTHS = (390, 1280)
PROBE = """
<script>
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    const right = root.clientWidth;
    const outside = [...page.body.querySelectorAll("*")].filter(part => {
      if (part.closest(".scroll, pre") && !part.matches(".scroll, pre")) return false;
      const box = part.getBoundingClientRect();
      return box.width > 0 && (box.right > right + 1 || box.left < -1);
    });
    found[frame.id] = {
      overflow: root.scrollWidth - root.clientWidth,
      outside: outside.slice(0, 3).map(part => part.outerHTML.slice(0, 120)),
      loaded: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
      charts: [...page.querySelectorAll(".picture svg")].filter(part => part.getBoundingClientRect().width > 0).length,
      height: root.scrollHeight,
    };
  }
  document.body.textContent = JSON.stringify(found);
});
</script>
"""


def cases() -> dict[str, list[Report]]:
    six = reports.report(6)
    long = "a-very-long-folder-or-model-name-without-any-place-to-break-" * 3
    return {
        "five-targets": [reports.missed(six)],
        "one-target": [replace(six, models=six.models[1:2])],
        "unlabelled": [reports.unlabelled(six)],
        "sparse": [reports.sparse(six)],
        "several": [reports.report(12), reports.report(12, method="cofi"), reports.report(12, method="magnitude")],
        "long-names": [replace(six, name=long, model=long, data=long, notes=[long], machine={"processor": long})],
    }


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_pages_fit_narrow_and_wide_screens(tmp_path: Path) -> None:
    frames = "".join(
        f'<iframe id="{name}-{width}" style="width:{width}px;height:800px;border:0" '
        f'srcdoc="{html.escape(render(shown))}"></iframe>'
        for name, shown in cases().items()
        for width in WIDTHS
    )
    page = tmp_path / "all.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><body>{frames}{PROBE}</body>")
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert ":CONSOLE" not in done.stderr
    body = re.search(r"<body>(\{.*\})</body>", done.stdout, re.DOTALL)
    assert body is not None, done.stdout[-500:]
    found = json.loads(html.unescape(body.group(1)))
    assert len(found) == len(cases()) * len(WIDTHS)
    for name, seen in found.items():
        assert seen["overflow"] == 0, (name, seen)
        assert seen["outside"] == [], (name, seen)
        assert seen["loaded"] == [], (name, seen)
        assert seen["height"] > 800, (name, seen)
        curves = 0 if name.startswith("sparse") else 6 if name.startswith("several") else 2
        assert seen["charts"] == 1 + curves, (name, seen)
