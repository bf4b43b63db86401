"""Write the results table of the README from ``benchmarks/results/*.json``: no number is typed by hand.

python benchmarks/table.py results/sst2.json [...] --into README.md
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

MARK = re.compile(r"(<!-- results:begin -->\n).*?(<!-- results:end -->)", re.DOTALL)
HEAD = (
    "| method | asked | predicted | measured (95 %) | metric | dense | divergence | parameters | minutes |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def table(result: dict[str, Any]) -> str:
    """One heading, one row a model, and the circumstances in the last line."""
    rows = [f"**{result['model']}**: {result['data']}\n\n{HEAD}"]
    for run in result["runs"]:
        for model in run["report"]["models"]:
            speed, metric, apart = model["measured_speedup"], model["metric"], model["divergence"]
            quality = (f"{metric['name']} {metric['value']:.3f}", f"{metric['dense']:.3f}") if metric else ("", "")
            measured = f"{speed['median']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})"
            cells = (
                run["method"],
                _asked(run["report"], model),
                f"{model['predicted_speedup']:.2f}x",
                measured,
                *quality,
                f"{apart['name']} {apart['value']:.4f}",
                f"{model['parameters'] / 1e6:.1f}M",
                f"{sum(model['seconds'].values()) / 60:.0f}",
            )
            rows.append(f"| {' | '.join(cells)} |\n")
    first = result["runs"][0]["report"]
    where, machine = first["environment"], first["machine"]
    made: dict[str, list[str]] = {}
    for run in result["runs"]:
        made.setdefault(str(run["report"]["commit"])[:7], []).append(_named(run, result["runs"]))
    commits = ", ".join(f"{commit} ({', '.join(names)})" for commit, names in made.items())
    told = dict.fromkeys(
        f"\n{run['method']} ran with {', '.join(f'{name} {value}' for name, value in chosen.items())}.\n"
        for run in result["runs"]
        if (chosen := run["report"]["recipe"].get("hyperparameters"))
    )
    rows += told
    for data in dict.fromkeys(run["report"]["data"] for run in result["runs"][1:]):
        if data != first["data"]:
            others = dict.fromkeys(run["method"] for run in result["runs"] if run["report"]["data"] == data)
            rows.append(f"\n{', '.join(others)}: {data}.\n")
    rows.append(
        f"\n{machine['processor']}, {machine['cores']} cores; batch {where['batch_size']}, sequence "
        f"{where['sequence_length']}, {where['dtype']}, {where['threads']} thread(s), {where['clock']} clock; seed "
        f"{first['seeds'][0]}; torch {first['versions']['torch']}; commit {commits}.\n"
    )
    return "".join(rows)


def _asked(report: dict[str, Any], model: dict[str, Any]) -> str:
    """``2x``, or ``80 % gone``: realised and, where masks were learned, as their gates expected it."""
    if report.get("target_kind") != "sparsity":
        return f"{model['target']:g}x"
    expected = model.get("expected_sparsity")
    told = f" ({100 * model['sparsity']:.1f}" + (f", expected {100 * expected:.1f})" if expected is not None else ")")
    return f"{100 * model['target']:g} % gone{told}"


def _named(run: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """The method; with its targets where they are spread over several runs."""
    if sum(other["method"] == run["method"] for other in runs) == 1:
        return run["method"]
    sparse = run["report"].get("target_kind") == "sparsity"
    targets = (
        f"{100 * model['target']:g} %" if sparse else f"{model['target']:g}x" for model in run["report"]["models"]
    )
    return f"{run['method']} at {', '.join(targets)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, required=True)
    given = parser.parse_args()
    tables = "\n".join(table(json.loads(path.read_text())) for path in given.results)
    page = given.into.read_text()
    if not MARK.search(page):
        raise SystemExit(f"{given.into} has no results:begin and results:end")
    given.into.write_text(MARK.sub(lambda found: found[1] + tables + found[2], page))


if __name__ == "__main__":
    main()
