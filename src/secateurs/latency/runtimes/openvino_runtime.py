"""The runtime ``openvino``: OpenVINO on the CPU, from the files ``openvino_model.xml`` and ``openvino_model.bin``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from secateurs.latency.environment import Environment
from secateurs.latency.runtimes import Execute, FileRuntime, register
from secateurs.latency.traced import Traced, refuse_untraceable

__all__ = ["OpenVINORuntime"]

PRECISION = {"float32": "f32", "bfloat16": "bf16"}
"""Data type of an environment -> name of OpenVINO. By itself OpenVINO takes bfloat16 where the processor has it."""


@register("openvino")
class OpenVINORuntime(FileRuntime):
    """OpenVINO, in the precision that the environment names."""

    packages: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str] = "openvino"
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    files: ClassVar[tuple[str, ...]] = ("openvino_model.xml", "openvino_model.bin")

    def check_int8(self) -> None:
        """Quantization after training needs nncf.

        Raises:
            RecipeError: it is not installed.
        """
        self._require(("nncf",), "int8")

    def export(self, model: Traced, folder: Path) -> None:
        """Write the graph and its weights: in float32, or calibrated to int8."""
        from transformers.exporters import NNCFOpenVINOQuantizer, OpenVINOConfig, OpenVINOExporter

        batches = model.calibration
        quantizer = (
            None if batches is None else NNCFOpenVINOQuantizer(calibration_dataset=[dict(one) for one in batches])
        )
        with refuse_untraceable(self.name, model.module):
            config = OpenVINOConfig(
                dynamic=model.dynamic,
                dynamic_shapes=model.dynamic_shapes,
                stateful=False,  # the cache goes in and comes out, as in the other runtimes
                quantizer=quantizer,
            )
            exported = OpenVINOExporter().export(model.module, {**model.inputs, **model.flags}, config)
            exported.save_pretrained(folder)

    def load(self, folder: Path, environment: Environment) -> Execute:
        """Compile the graph for the CPU, with the threads of the environment."""
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": environment.threads,
            "INFERENCE_PRECISION_HINT": PRECISION[environment.dtype],
            "ENABLE_CPU_PINNING": False,  # models that are timed in turns would be pinned to the same cores
        }
        compiled = openvino.Core().compile_model(str(folder / self.files[0]), "CPU", settings)
        request = compiled.create_infer_request()
        inputs = [port.any_name for port in compiled.inputs]
        outputs = [port.any_name for port in compiled.outputs]

        def execute(batch: Mapping[str, Any]) -> dict[str, Any]:
            found = request.infer([batch[name].numpy() for name in inputs], share_inputs=True)
            return dict(zip(outputs, found.values(), strict=True))

        return execute
