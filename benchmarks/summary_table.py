"""Write the summary table of the README from ``benchmarks/results/sst2.json``, so that no number is typed by hand.

python benchmarks/summary_table.py benchmarks/results/sst2.json --into README.md

The table replaces the text between the comment ``<!-- results:begin -->`` and the next empty line. The lines after it, up to
``<!-- results:end -->``, say where the numbers come from; they stay as they are.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

LABELS = {
    "ziplm": "ziplm",
    "ziplm + 1/4 epoch": "ziplm + 1/4 epoch of fine-tuning",
    "ziplm + 1 epoch": "ziplm + 1 epoch of fine-tuning",
    "uniform": "uniform",
    "paper": "ziplm, `--preset paper`",
    "magnitude": "magnitude",
    "random": "random-units",
}
"""Method as recorded -> method as the README names it, in the order of the rows."""

PLACE = re.compile(r"(<!-- results:begin -->\n).*?(\n\n.*?<!-- results:end -->)", re.DOTALL)


def table(record: dict[str, Any]) -> str:
    """The table of one record.

    Args:
        record: a record of ``benchmarks/methods.py``.

    Returns:
        Markdown: one row per method and one column per target, with ``metric (divergence)`` in each cell; the last row is
        the range of the measured speed-ups.
    """
    models: dict[str, dict[float, Any]] = {}
    for run in record["runs"]:
        models.setdefault(run["method"], {}).update({model["target"]: model for model in run["report"]["models"]})
    targets = sorted({target for name in LABELS for target in models[name]})
    lines = [["method", *(f"{target:g}x" for target in targets)], ["---"] * (len(targets) + 1)]
    for name, label in LABELS.items():
        lines.append([label, *(_quality(models[name].get(target)) for target in targets)])
    speeds = [
        [models[name][target]["measured_speedup"]["median"] for name in LABELS if target in models[name]]
        for target in targets
    ]
    lines.append(["*measured speed-ups (medians)*", *(f"{min(part):.2f}x to {max(part):.2f}x" for part in speeds)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _quality(model: dict[str, Any] | None) -> str:
    return f"{model['metric']['value']:.3f} ({model['divergence']['value']:.4f})" if model else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    given = parser.parse_args()
    made = table(json.loads(given.result.read_text()))
    page = given.into.read_text()
    if not PLACE.search(page):
        raise SystemExit(f"{given.into} has no comments results:begin and results:end with an empty line between them")
    given.into.write_text(PLACE.sub(lambda found: found[1] + made + found[2], page))


if __name__ == "__main__":
    main()
