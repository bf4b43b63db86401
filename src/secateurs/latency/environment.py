"""``Environment``: where and how a model runs when its latency is measured."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

__all__ = ["GENERATION", "THROUGHPUT", "Clock", "Environment", "Regime", "lengths", "machine"]

Clock = Literal["wall", "cpu"]

Regime = Literal["throughput", "generation"]
THROUGHPUT: Regime = "throughput"
"""One forward pass of a batch of sequences is timed."""

GENERATION: Regime = "generation"
"""A pass over the prompt is timed, and the steps that follow it, one token each, with the key-value cache."""


@dataclass(frozen=True)
class Environment:
    """Where and how a model runs. Latencies of two different environments are never compared.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        batch_size: sequences per forward pass.
        sequence_length: tokens per sequence, without padding; in the regime ``"generation"`` prompt and new tokens together.
        threads: number of intra-op CPU threads.
        runtime: name of a runtime in ``secateurs.latency.runtimes``.
        clock: ``"wall"``, or ``"cpu"`` for the CPU time of the calling thread. The CPU clock stays accurate on a busy
            machine, and requires ``threads = 1``.
        regime: ``"throughput"``, or ``"generation"``: a pass over a prompt gives the first token of every sequence, and
            each of ``new_tokens`` steps with the key-value cache one more.
        prompt_length: tokens of the prompt; 0 in the regime ``"throughput"``.
        new_tokens: steps after the prompt; 0 in the regime ``"throughput"``.
    """

    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 32
    sequence_length: int = 128
    threads: int = 1
    runtime: str = "torch"
    clock: Clock = "wall"
    regime: Regime = THROUGHPUT
    prompt_length: int = 0
    new_tokens: int = 0

    @property
    def generates(self) -> bool:
        """Whether the regime is ``"generation"``."""
        return self.regime == GENERATION

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values. The fields of the regime are left out where it is ``"throughput"``, the default."""
        values = asdict(self)
        return values if self.generates else {name: values[name] for name in values if name not in OF_REGIME}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Environment:
        """Inverse of ``to_dict``; unknown keys are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}, " if self.device == "cpu" else ""
        tokens = f"sequence {self.sequence_length}"
        if self.generates:
            tokens = f"prompt {self.prompt_length} and {self.new_tokens} new tokens"
        return f"{self.device} ({self.dtype}, batch {self.batch_size}, {tokens}, {threads}{self.runtime}, {self.clock} clock)"


OF_REGIME = ("regime", "prompt_length", "new_tokens")
"""Fields of an ``Environment`` that older versions did not have."""


def lengths(regime: Regime, sequence_length: int, prompt_length: int, new_tokens: int) -> dict[str, Any]:
    """The fields of an ``Environment`` that say how many tokens are timed, and how.

    Args:
        regime: the regime.
        sequence_length: tokens per sequence in the regime ``"throughput"``.
        prompt_length: tokens of the prompt in the regime ``"generation"``.
        new_tokens: steps after the prompt in the regime ``"generation"``.
    """
    if regime != GENERATION:
        return {"regime": regime, "sequence_length": sequence_length}
    return {
        "regime": regime,
        "sequence_length": prompt_length + new_tokens,
        "prompt_length": prompt_length,
        "new_tokens": new_tokens,
    }


def machine() -> dict[str, Any]:
    """Description of the current machine, as JSON values: processor, cores, GPU, system and versions."""
    import torch  # imported here, because an ``Environment`` is also read where torch is not needed

    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
