"""Write results tables into a Markdown page from ``benchmarks/results/*.json``, so that no number is typed by hand.

python benchmarks/table.py benchmarks/results/sst2.json [...] --into docs/results.md [--place results]

The tables replace the text between two comments of the page, ``<!-- results:begin -->`` and ``<!-- results:end -->``;
``--place`` gives another name than ``results``.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

HEAD = ["method", "asked", "predicted", "measured (95 %)", "metric", "dense", "divergence", "parameters", "minutes"]


def table(result: dict[str, Any]) -> str:
    """The table of one record.

    Args:
        result: a record of ``benchmarks/methods.py`` or ``benchmarks/flop_lm.py``.

    Returns:
        Markdown: a title, one row per model, and a last line with the machine, the environment, seeds and commits.
    """
    steps = {(row["method"], row["seed"], row["target"]): row["training_speedup"] for row in result.get("rows", [])}
    seeds = sorted({run["seed"] for run in result["runs"] if "seed" in run})
    head = [*HEAD, *(["training step"] if steps else [])]
    rows = [f"**{result['model']}**: {result['data']}\n\n", _line(head), _line(["---"] * len(head))]
    for run in result["runs"]:
        for model in run["report"]["models"]:
            speed, metric, apart = model["measured_speedup"], model["metric"], model["divergence"]
            quality = (f"{metric['name']} {metric['value']:.3f}", f"{metric['dense']:.3f}") if metric else ("", "")
            measured = f"{speed['median']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})"
            if metric and metric["dense"] > 100:
                quality = (f"{metric['name']} {metric['value']:.1f}", f"{metric['dense']:.1f}")
            step = steps.get((run["method"], run.get("seed"), model["target"]))
            cells = [
                f"{run['method']}, seed {run['seed']}" if len(seeds) > 1 else run["method"],
                _asked(run["report"], model),
                f"{model['predicted_speedup']:.2f}x",
                measured,
                *quality,
                f"{apart['name']} {apart['value']:.4f}",
                f"{model['parameters'] / 1e6:.1f}M",
                f"{sum(model['seconds'].values()) / 60:.0f}",
                *([f"{step['ratio']:.2f}x"] if step else []),
            ]
            rows.append(_line(cells))
    first = result["runs"][0]["report"]
    where, machine = first["environment"], first["machine"]
    made: dict[str, list[str]] = {}
    for run in result["runs"]:
        made.setdefault(str(run["report"]["commit"])[:7], []).append(_named(run, result["runs"]))
    commits = ", ".join(f"{commit} ({', '.join(dict.fromkeys(names))})" for commit, names in made.items())
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
        f"{' and '.join(map(str, seeds or first['seeds'][:1]))}; torch {first['versions']['torch']}; commit {commits}.\n"
    )
    return "".join(rows)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _asked(report: dict[str, Any], model: dict[str, Any]) -> str:
    """The target of a model: ``2x``, or ``80 % gone (80.0, expected 80.1)``.

    The figures in parentheses are the sparsity of the model and, for learned gates, the expected sparsity.
    """
    if report.get("target_kind") != "sparsity":
        return f"{model['target']:g}x"
    expected = model.get("expected_sparsity")
    told = f" ({100 * model['sparsity']:.1f}" + (f", expected {100 * expected:.1f})" if expected is not None else ")")
    return f"{100 * model['target']:g} % gone{told}"


def _named(run: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """The method of a run, with the targets of the run if several runs of the method have different targets."""
    alike = [other for other in runs if other["method"] == run["method"]]
    if len(alike) == 1 or all("seed" in other for other in alike):
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
    parser.add_argument("--place", default="results", help="name in the two comments")
    given = parser.parse_args()
    tables = "\n".join(table(json.loads(path.read_text())) for path in given.results)
    page = given.into.read_text()
    place = re.compile(rf"(<!-- {given.place}:begin -->\n).*?(<!-- {given.place}:end -->)", re.DOTALL)
    if not place.search(page):
        raise SystemExit(f"{given.into} has no comments {given.place}:begin and {given.place}:end")
    given.into.write_text(place.sub(lambda found: found[1] + tables + found[2], page))


if __name__ == "__main__":
    main()
