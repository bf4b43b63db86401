"""The model card: the ``README.md`` of a pruned model's folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from secateurs.report import figures
from secateurs.report.kept import kept_map, kept_summary
from secateurs.report.page import loading, recipe_yaml
from secateurs.report.values import Facts, ModelResult

__all__ = ["card"]

CITATION = """@inproceedings{kurtic2023ziplm,
  title     = {{ZipLM}: Inference-Aware Structured Pruning of Language Models},
  author    = {Kurtic, Eldar and Frantar, Elias and Alistarh, Dan},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  note      = {arXiv:2302.04089}
}"""


def card(report: Facts, result: ModelResult) -> str:
    """The card of one model, in the Markdown of the Hugging Face Hub.

    Args:
        report: the run.
        result: the model, one of ``report.models``.

    Returns:
        YAML front matter and Markdown.
    """
    return "\n".join(_lines(report, result)) + "\n"


def _lines(report: Facts, result: ModelResult) -> Iterator[str]:
    front: dict[str, Any] = {"library_name": "transformers"}
    if _on_hub(report.model):
        front |= {"base_model": report.model, "base_model_relation": "finetune"}
    if report.pipeline_tag:
        front["pipeline_tag"] = report.pipeline_tag
    front["tags"] = ["secateurs", "pruning"]
    yield f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n"
    yield f"# {_text(report.model_name)}, pruned: {_text(figures.headline(result))}\n"
    yield (
        f"`{_code(report.model_name)}` with whole units cut out by {_text(report.method)}, through Secateurs.\n"
        "Nothing is masked: the removed weights are gone, and the model is an ordinary, smaller one."
    )
    yield "\n## Measured\n"
    yield from _measured(report, result)
    yield "\n## Use\n"
    with_secateurs, without = loading(report, result.path), loading(report, result.path, remote_code=True)
    yield f"```python\n{with_secateurs}\n```\n"
    yield "Where Secateurs is not installed, the folder brings its own code:\n"
    yield f"```python\n{without}\n```"
    yield "\n## What was kept\n"
    yield f"{kept_summary(result.kept)}.\n"
    yield from _kept(result)
    yield "\n## How it was made\n"
    versions = ", ".join(f"{_text(name)} {_text(version)}" for name, version in report.versions.items())
    seeds = ", ".join(map(str, report.seeds))
    yield f"Task: {_text(figures.words(report.task))}. Data: {_text(report.data)}."
    yield f"Seeds: {seeds}. Versions: {versions}.\n"
    yield f"```yaml\n{recipe_yaml(report)}```"
    yield f"\n## Citation\n\nThe method ZipLM:\n\n```bibtex\n{CITATION}\n```"


def _measured(report: Facts, result: ModelResult) -> Iterator[str]:
    """A table pruned against dense, and the circumstances."""
    yield "| | pruned | dense |\n|---|---:|---:|"
    if result.measured_speedup is not None:
        measured = result.measured_speedup
        yield f"| speed-up (95 % interval) | {figures.speedup(measured.median)} ({figures.span(measured)}) | 1.00x |"
    if result.latency_ms is not None:
        yield f"| latency | {figures.ms(result.latency_ms)} | {figures.ms(result.dense_latency_ms)} |"
    yield f"| parameters | {figures.shape(result.parameters)} | {figures.shape(result.dense_parameters)} |"
    yield f"| sparsity of prunable parameters | {figures.removed(result)} | 0 % |"
    if result.expected_sparsity is not None:
        yield f"| the same, as the learned gates expected it | {figures.sparsity(result.expected_sparsity)} | 0 % |"
    if result.sparsity_with_norms is not None:
        with_norms = figures.sparsity(result.sparsity_with_norms)
        yield f"| sparsity of all parameters of the layers, with norms | {with_norms} | 0 % |"
    if result.metric is not None:
        name, value, dense = result.metric.name, result.metric.value, result.metric.dense
        yield f"| {_text(figures.words(name))} | {figures.quality(value)} | {figures.quality(dense)} |"
    if result.divergence is not None:
        divergence = result.divergence
        yield f"| {_text(figures.words(divergence.name))} from dense | {figures.quality(divergence.value)} | 0 |"
    where = [str(report.machine[name]) for name in ("processor", "gpu") if report.machine.get(name)]
    if where:
        yield f"\nMachine: {_text(', '.join(where))}."
    circumstances = [f"{figures.words(name)} {value}" for name, value in report.environment.items()]
    if circumstances:
        yield f"Environment: {_text(', '.join(circumstances))}."
    yield f"Asked for {figures.asked(report, result)}: {figures.verdict(result)}."
    yield "Speed-ups are of this machine and environment; elsewhere, measure again."


def _kept(result: ModelResult) -> Iterator[str]:
    """One row a layer."""
    table = kept_map(result.kept)
    if not table.rows:
        return
    yield f"| {_text(table.places)} | " + " | ".join(map(_text, table.columns)) + " |"
    yield "|---" * (len(table.columns) + 1) + "|"
    for place, cells in table.rows.items():
        written = ["" if cell is None else f"{cell.kept} of {cell.size}" if cell.kept else "removed" for cell in cells]
        yield f"| {_text(place)} | " + " | ".join(written) + " |"


def _on_hub(model: str) -> bool:
    """Whether it reads as a name on the Hub and is no folder here."""
    return (
        re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) is not None
        and not model.startswith(".")
        and not Path(model).exists()
    )


def _text(value: str) -> str:
    """On one line, without anything Markdown or HTML would act on."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(value.split()))


def _code(value: str) -> str:
    return value.replace("`", "'")
