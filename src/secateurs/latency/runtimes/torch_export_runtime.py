"""The runtime ``torch-export``: a graph of ``torch.export``, from a file ``model.pt2``, run by PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from secateurs.latency.environment import Environment
from secateurs.latency.runtimes import Execute, FileRuntime, register
from secateurs.latency.traced import Traced, refuse_untraceable

__all__ = ["TorchExportRuntime"]


@register("torch-export")
class TorchExportRuntime(FileRuntime):
    """The graph of ``torch.export``."""

    files: ClassVar[tuple[str, ...]] = ("model.pt2",)

    def export(self, model: Traced, folder: Path) -> None:
        """Write ``model.pt2``."""
        from transformers.exporters import DynamoConfig, DynamoExporter

        with refuse_untraceable(self.name, model.module):
            config = DynamoConfig(dynamic=model.dynamic, dynamic_shapes=model.dynamic_shapes)
            exported = DynamoExporter().export(model.module, {**model.inputs, **model.flags}, config)
            exported.save_pretrained(folder)

    def load(self, folder: Path, environment: Environment) -> Execute:
        """Read the graph."""
        module: Any = torch.export.load(str(folder / self.files[0])).module()

        def execute(batch: Mapping[str, Any]) -> Any:
            with torch.inference_mode():
                return module(**batch)

        return execute
