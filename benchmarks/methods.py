"""Compares methods on one model, one task and one latency table, at equal *measured* speed-ups.

    python benchmarks/methods.py MODEL --task text-classification --data DATA --out runs/sst2 \
        --json benchmarks/results/sst2.json --speedup 2 --speedup 4 --method ziplm --method uniform

Each method is one run of `secateurs prune` (``runs/sst2/<method>``). The same call again resumes a killed run. ``paper``
stands for ``ziplm --preset paper``; its searches are long, and ``--paper-steps`` shortens them. The number is recorded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

METHODS: dict[str, list[str]] = {
    "ziplm": ["--method", "ziplm"],
    "uniform": ["--method", "uniform"],
    "magnitude": ["--method", "magnitude"],
    "random": ["--method", "random-units"],
    "paper": ["--method", "ziplm", "--preset", "paper"],
}
"""Name in the records -> options of `secateurs prune`."""


def portable(report: dict[str, Any]) -> dict[str, Any]:
    """The report without what holds on this machine only: folders of paths, the command, and the latency table."""
    kept = {name: value for name, value in report.items() if name not in ("command", "latency_table")}
    kept["model"] = Path(report["model"]).name
    paths = {
        name: Path(report["recipe"][name]).name
        for name in ("model", "data", "latency_table")
        if name in report["recipe"]
    }
    data = report["data"].replace(report["recipe"]["data"], paths["data"])
    return {**kept, "data": data, "recipe": {**report["recipe"], **paths}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--json", type=Path, required=True, help="file for the results")
    parser.add_argument("--speedup", type=float, action="append", required=True)
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--paper-steps", type=int, default=1000)
    parser.add_argument("--paper-inits", type=int, default=100)
    parser.add_argument("--recover-epochs", type=float, default=0.0)
    parser.epilog = "Options after -- are passed to `secateurs prune`, for every method."
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given = parser.parse_args(sys.argv[1:split])
    options = sys.argv[split + 1 :]
    runs = []
    for method in given.method or METHODS:
        folder = given.out / method
        command = [sys.executable, "-m", "secateurs.cli", "prune", given.model, "--task", given.task]
        command += ["--data", given.data, "--out", str(folder), "-v", *options]
        for speedup in given.speedup:
            command += ["--speedup", str(speedup)]
        command += METHODS[method]
        if method == "paper":
            command += ["--set", f"steps={given.paper_steps}", "--set", f"inits={given.paper_inits}"]
        if given.recover_epochs:
            command += ["--recover-epochs", str(given.recover_epochs)]
        shared = given.out / "latency.json"
        if (folder / "recipe.yaml").is_file():
            command += ["--resume"]
        elif shared.is_file():
            command += ["--latency-table", str(shared)]
        subprocess.run(command, check=True)
        if not shared.is_file():
            # The first run measures the table, and the others use it.
            shared.write_bytes((folder / "latency.json").read_bytes())
        report = json.loads((folder / "report.json").read_text())
        runs.append({"method": method, "report": portable(report)})
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(
            json.dumps({"model": Path(given.model).name, "data": runs[0]["report"]["data"], "runs": runs}, indent=1)
        )


if __name__ == "__main__":
    main()
