"""``Environment``: where and how a model runs when its latency is measured."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

__all__ = ["Clock", "Environment", "machine"]

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Environment:
    """Where and how a model runs. Latencies of two different environments are never compared.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        batch_size: sequences per forward pass.
        sequence_length: tokens per sequence, without padding.
        threads: number of intra-op CPU threads.
        runtime: name of a runtime in ``secateurs.latency.runtimes``.
        clock: ``"wall"``, or ``"cpu"`` for the CPU time of the calling thread. The CPU clock stays accurate on a busy
            machine, and requires ``threads = 1``.
    """

    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 32
    sequence_length: int = 128
    threads: int = 1
    runtime: str = "torch"
    clock: Clock = "wall"

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Environment:
        """Inverse of ``to_dict``; unknown keys are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}, " if self.device == "cpu" else ""
        return (
            f"{self.device} ({self.dtype}, batch {self.batch_size}, sequence {self.sequence_length}, "
            f"{threads}{self.runtime}, {self.clock} clock)"
        )


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
