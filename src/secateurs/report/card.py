"""The model card: the ``README.md`` in the folder of a pruned model."""

from __future__ import annotations

import re
from collections.abc import Iterator

from secateurs.report import formatting
from secateurs.report.card_metadata import ModelFacts, library, metadata
from secateurs.report.citations import citations
from secateurs.report.generation_rows import generation_rows, output_head
from secateurs.report.headline import headline
from secateurs.report.kept import kept_map, kept_summary
from secateurs.report.snippets import loading_code, recipe_yaml
from secateurs.report.values import ModelResult, RunResult

__all__ = ["card"]


def card(report: RunResult, result: ModelResult, facts: ModelFacts | None = None) -> str:
    """The model card of one pruned model, for the Hugging Face Hub.

    Args:
        report: the run.
        result: the model, one of ``report.models``.
        facts: what is known of the dense model and of the folder; ``None`` = a dense model without a card, in float32.

    Returns:
        Metadata as YAML between two lines ``---``, then Markdown.
    """
    return "\n".join(_lines(report, result, facts or ModelFacts())) + "\n"


def _lines(report: RunResult, result: ModelResult, facts: ModelFacts) -> Iterator[str]:
    yield f"---\n{metadata(report, result, facts).to_yaml()}\n---\n"
    yield f"# {_text(report.model_name)}, pruned: {_text(headline(result))}\n"
    yield f"`{_code(report.model_name)}`, pruned with the method {_text(report.method)} of Secateurs."
    yield from _what_was_done(result)
    yield "\n## Measurements\n"
    yield from _measurements(report, result)
    yield f"The weights are saved in {facts.dtype}. Quality (metric and divergence) was computed in float32."
    yield "\n## Use\n"
    yield f"```python\n{loading_code(report, result.path, library=library(report, facts), plain=not facts.has_code)}\n```"
    if facts.has_code:
        yield "\nIf Secateurs is not installed, load the model with the code in its folder:\n"
        yield f"```python\n{loading_code(report, result.path, library=library(report, facts), remote_code=True)}\n```"
    yield "\n## What was kept\n"
    yield f"{kept_summary(result.kept)}.\n"
    yield from _kept(result)
    yield "\n## How the model was made\n"
    versions = ", ".join(f"{_text(name)} {_text(version)}" for name, version in report.versions.items())
    seeds = ", ".join(map(str, report.seeds))
    yield f"Task: {_text(formatting.readable(report.task))}. Data: {_text(report.data)}."
    yield f"Seeds: {seeds}. Versions: {versions}.\n"
    yield f"```yaml\n{recipe_yaml(report)}```"
    for number, (name, entry) in enumerate(citations(report.method, report.recipe).items()):
        yield ("" if number else "\n## Citation\n") + f"\n{name[0].upper()}{name[1:]}:\n\n```bibtex\n{entry}\n```"


def _what_was_done(result: ModelResult) -> Iterator[str]:
    """What pruning did to the weights."""
    if result.start:
        yield (
            f"It was pruned from the finished model {_text(result.start)} of the same run; all figures below compare it with "
            "the dense model."
        )
    cut = any(kept.kept < kept.size for kept in result.kept.values())
    if cut:
        yield "Removed units are cut out of the weights, not masked: the model is an ordinary, smaller model."
        if result.has_zeros:
            yield "Weights that are 0 stay in the weight matrices and save neither memory nor time."
    elif result.has_zeros:
        yield (
            "Single weights are masked: they are 0 in tensors of full size. No unit was cut out, so the model takes as much "
            "memory and time as the dense one."
        )
    else:
        yield "No unit was cut out: the model is as large as the dense one."


def _measurements(report: RunResult, result: ModelResult) -> Iterator[str]:
    """A table of the pruned and the dense model, then the machine, the environment and the target."""
    yield "| | pruned | dense |\n|---|---:|---:|"
    if result.measured_speedup is not None:
        measured = result.measured_speedup
        interval = formatting.interval(measured)
        yield f"| speed-up (95 % interval) | {formatting.speedup(measured.median)} ({interval}) | 1.00x |"
    if result.latency_ms is not None:
        yield f"| latency | {formatting.ms(result.latency_ms)} | {formatting.ms(result.dense_latency_ms)} |"
    if result.generation is not None:
        for name, (pruned, dense) in generation_rows(result.generation).items():
            yield f"| {name} | {pruned} | {dense} |"
    pruned, dense = formatting.thousands(result.parameters), formatting.thousands(result.dense_parameters)
    yield f"| parameters | {pruned} | {dense} |"
    yield f"| sparsity of the prunable parameters | {formatting.sparsity_and_zeros(result)} | 0 % |"
    if result.expected_sparsity is not None:
        expected = formatting.sparsity(result.expected_sparsity)
        yield f"| expected sparsity of the prunable parameters, by the learned gates | {expected} | 0 % |"
    if result.sparsity_with_norms is not None:
        with_norms = formatting.sparsity(result.sparsity_with_norms)
        yield f"| sparsity of all parameters of the layers, norms included | {with_norms} | 0 % |"
    if result.metric is not None:
        name, value, dense = result.metric.name, result.metric.value, result.metric.dense
        yield f"| {_text(formatting.readable(name))} | {formatting.quality(value)} | {formatting.quality(dense)} |"
    if result.divergence is not None:
        divergence = result.divergence
        name = _text(formatting.readable(divergence.name))
        yield f"| {name} from the dense model, on {_text(report.reported_on)} | {formatting.quality(divergence.value)} | 0 |"
    if result.kept_quality is not None:
        kept = result.kept_quality
        yield f"| kept share of the {_text(kept.measure)}, on {kept.texts} texts (95 % interval) | {kept} | 100 % |"
    if head := output_head([result]):
        yield f"\n{head}"
    machine = [str(report.machine[name]) for name in ("processor", "gpu") if report.machine.get(name)]
    if machine:
        yield f"\nMachine: {_text(', '.join(machine))}."
    environment = [f"{formatting.readable(name)} {value}" for name, value in report.environment.items()]
    if environment:
        yield f"Environment: {_text(', '.join(environment))}."
    yield f"Target: {formatting.target(report, result)} ({formatting.verdict(result)})."
    if result.measured_speedup is not None:
        yield "The speed-up is valid for this machine and this environment only; measure again for others."


def _kept(result: ModelResult) -> Iterator[str]:
    """The table of kept counts, one row per layer."""
    table = kept_map(result.kept)
    if not table.rows:
        return
    yield f"| {_text(table.row_heading)} | " + " | ".join(map(_text, table.columns)) + " |"
    yield "|---" * (len(table.columns) + 1) + "|"
    for row, cells in table.rows.items():
        written = ["" if cell is None else f"{cell.kept} of {cell.size}" if cell.kept else "removed" for cell in cells]
        yield f"| {_text(row)} | " + " | ".join(written) + " |"


def _text(value: str) -> str:
    """The text on one line, with the characters escaped that Markdown or HTML would interpret."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(value.split()))


def _code(value: str) -> str:
    """The text for a Markdown code span: backquotes become apostrophes."""
    return value.replace("`", "'")
