"""The runtime ``onnx``: ONNX Runtime on the CPU, from a file ``model.onnx``.

The file is written by ``transformers.exporters``. The older way, ``torch.onnx.export(dynamo=False)``, writes BERT models
whose logits are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from secateurs.latency.environment import Environment
from secateurs.latency.runtimes import Execute, FileRuntime, register
from secateurs.latency.traced import Traced, refuse_untraceable

__all__ = ["OnnxRuntime"]


@register("onnx")
class OnnxRuntime(FileRuntime):
    """ONNX Runtime."""

    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx", "onnxscript")
    extra: ClassVar[str] = "onnx"
    files: ClassVar[tuple[str, ...]] = ("model.onnx", "model.onnx.data")

    def check_int8(self) -> None:
        """Dynamic quantization comes with the runtime."""
        self.check_installed()

    def export(self, model: Traced, folder: Path) -> None:
        """Write ``model.onnx``, and its weights in ``model.onnx.data``.

        int8 is dynamic: weights per channel, activations quantized when the file runs. The static kind, with the defaults of
        ONNX Runtime, costs several points of accuracy.
        """
        from transformers.exporters import OnnxConfig, OnnxExporter, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

        int8 = model.calibration is not None
        quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True)) if int8 else None
        with refuse_untraceable(self.name, model.module):
            config = OnnxConfig(dynamic=model.dynamic, dynamic_shapes=model.dynamic_shapes, quantizer=quantizer)
            exported = OnnxExporter().export(model.module, {**model.inputs, **model.flags}, config)
            exported.save_pretrained(folder)

    def load(self, folder: Path, environment: Environment) -> Execute:
        """Open a session with the threads of the environment."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = environment.threads
        options.inter_op_num_threads = 1
        # Threads that spin after a run would disturb the other models that are timed in turns.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(folder / self.files[0]), options, providers=["CPUExecutionProvider"])
        inputs = [entry.name for entry in session.get_inputs()]
        outputs = [entry.name for entry in session.get_outputs()]

        def execute(batch: Mapping[str, Any]) -> dict[str, Any]:
            return dict(zip(outputs, session.run(outputs, {name: batch[name].numpy() for name in inputs}), strict=True))

        return execute
