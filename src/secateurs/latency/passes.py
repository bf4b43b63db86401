"""Workloads: what a timing runs. A ``Pass`` is one forward pass of a model; a ``Generation`` is a whole generation.

The contract times the whole workload of the regime. A latency table times one pass, from which the time of the whole follows:
in the regime ``generation`` there is a table of the pass over the prompt, and one of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from secateurs.latency.environment import Environment
from secateurs.latency.generation import generate, tokens_in_cache
from secateurs.latency.key_value_cache import fresh_copy
from secateurs.latency.timer import Run

__all__ = ["FIRST_TOKEN", "PER_TOKEN", "Generation", "Pass", "Workload", "passes", "whole"]

FIRST_TOKEN = "first_token"
"""Name of the table of the pass over the prompt."""

PER_TOKEN = "per_token"
"""Name of the table of a step."""

RunModel = Callable[[Mapping[str, Any]], Any]
"""A prepared model: a batch -> its output."""


class Workload(Protocol):
    """What is timed as a unit."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Inputs of its first pass that is timed, by whose example a runtime prepares a model."""
        ...

    def of_model(self, run: RunModel) -> Run:
        """The workload as a run of a prepared model."""
        ...


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Args:
        inputs: inputs of the pass.
        before: inputs of a pass that is run once, untimed, to fill the key-value cache that every timed pass starts with;
            ``None`` = the pass starts without a cache.
    """

    inputs: Mapping[str, Any]
    before: Mapping[str, Any] | None = None

    def of_model(self, run: RunModel) -> Run:
        """See ``Workload.of_model``."""
        if self.before is None:
            return lambda: run(self.inputs)
        cache = run(self.before).past_key_values
        return lambda: run({**self.inputs, "past_key_values": fresh_copy(cache)})


@dataclass(frozen=True)
class Generation:
    """A pass over a prompt and the steps that follow.

    Args:
        inputs: inputs of the first pass: the prompt.
        new_tokens: number of steps.
    """

    inputs: Mapping[str, Any]
    new_tokens: int

    def of_model(self, run: RunModel) -> Run:
        """See ``Workload.of_model``; the run returns what was ``Generated``."""
        return lambda: generate(run, self.inputs, self.new_tokens)


def whole(environment: Environment, inputs: Mapping[str, Any]) -> Pass | Generation:
    """What the contract times.

    Args:
        environment: environment of the timings.
        inputs: the batch, or the prompt.
    """
    return Generation(inputs, environment.new_tokens) if environment.generates else Pass(inputs)


def passes(environment: Environment, inputs: Mapping[str, Any]) -> dict[str, tuple[Pass, int]]:
    """The passes that the workload is made of: name -> the pass, and how often it is run.

    Args:
        environment: environment of the timings.
        inputs: the batch, or the prompt.
    """
    if not environment.generates:
        return {"": (Pass(inputs), 1)}
    return {FIRST_TOKEN: (Pass(inputs), 1), PER_TOKEN: (_step(environment, inputs), environment.new_tokens)}


def _step(environment: Environment, prompt: Mapping[str, Any]) -> Pass:
    """The step that stands for all: its cache holds ``tokens_in_cache`` tokens, those of the prompt again and again."""
    length, ids = tokens_in_cache(environment), prompt["input_ids"]
    cached = ids.repeat(1, -(-length // ids.shape[1]))[:, :length]
    filling = {**prompt, "input_ids": cached, "attention_mask": torch.ones_like(cached)}
    one = ids[:, :1]
    attended = ids.new_ones(len(ids), length + 1)
    return Pass({"input_ids": one, "attention_mask": attended, "use_cache": True}, before=filling)
