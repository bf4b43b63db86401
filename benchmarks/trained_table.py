"""Write the tables of ``docs/results.md`` from ``benchmarks/results/h100.json``, so that no number is typed by hand.

python benchmarks/trained_table.py benchmarks/results/h100.json --into docs/results.md

A table replaces the text between a comment such as ``<!-- trained: cofi-sst2-*, ziplm-sst2-* -->`` and the next
``<!-- end -->``. The first comment lists the names of the runs, as patterns, in the order of their rows.
"""

from __future__ import annotations

import argparse
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

PLACE = re.compile(r"(<!-- trained: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def rows(record: dict[str, Any], patterns: list[str]) -> str:
    """The table of some runs.

    Args:
        record: the contents of ``h100.json``.
        patterns: patterns of run names, in the order of the rows.

    Returns:
        Markdown, one row per model.
    """
    chosen = {name: run for pattern in patterns for name, run in record["runs"].items() if fnmatch(name, pattern)}
    stepped = any("training_step" in model.get("timed", {}) for run in chosen.values() for model in run["models"])
    head = ["run", "asked", "expected", "gone", "measured (95 %)", *(["training step"] if stepped else [])]
    head += ["metric", "dense", "divergence", "parameters"]
    lines = [head, ["---"] * len(head)]
    for name, run in chosen.items():
        for model in run["models"]:
            lines.append(cells(name, model, stepped=stepped))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(name: str, model: dict[str, Any], *, stepped: bool) -> list[str]:
    """The cells of one row.

    Args:
        name: name of the run.
        model: one model of the run.
        stepped: whether the table has a column for the speed-up of a training step.
    """
    expected, metric, apart, timed = (model[key] for key in ("expected_sparsity", "metric", "divergence", "timed"))
    speed = timed["speedup"]
    sparse = model["path"].startswith("sparsity")
    zeros = f"{100 * model['zeros']:.1f} % zeros" if model["zeros"] else ""
    step = timed.get("training_step")
    return [
        name,
        f"{100 * model['target']:g} %" if sparse else f"{model['target']:.2f}x (table)",
        f"{100 * expected:.2f} %" if expected is not None else "",
        zeros or f"{100 * model['sparsity']:.2f} %",
        f"{speed['median']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})",
        *([f"{step['ratio']:.2f}x" if step else ""] if stepped else []),
        f"{metric['name']} {metric['value']:.4f}",
        f"{metric['dense']:.4f}",
        f"{apart['name']} {apart['value']:.4f}",
        f"{model['parameters'] / 1e6:.2f}M",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    given = parser.parse_args()
    record = json.loads(given.results.read_text())
    page = given.into.read_text()
    if not PLACE.search(page):
        raise SystemExit(f"{given.into} has no place for a table: it needs the comments 'trained: NAMES' and 'end'")
    given.into.write_text(
        PLACE.sub(
            lambda found: found[1] + rows(record, [part.strip() for part in found[2].split(",")]) + found[3], page
        )
    )


if __name__ == "__main__":
    main()
