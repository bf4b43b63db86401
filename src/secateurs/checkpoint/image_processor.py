"""Loading of the image processor of a model, with clear errors."""

from __future__ import annotations

from typing import Any

from secateurs.checkpoint.refusals import first_line
from secateurs.errors import CheckpointError

__all__ = ["load_image_processor"]


def load_image_processor(source: str, options: dict[str, Any]) -> Any:
    """The image processor of a folder or hub repository, with the back end of Pillow, which needs no torchvision.

    Args:
        source: folder, or hub id.
        options: arguments of ``from_pretrained``: subfolder, revision, trust_remote_code.

    Raises:
        CheckpointError: Pillow is missing, or the source has no image processor.
    """
    try:
        import PIL  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise CheckpointError("models of images need Pillow; install secateurs[vision]") from None
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(source, backend="pil", **options)
    except Exception as error:  # transformers raises exceptions of many classes
        raise CheckpointError(
            f"cannot load the image processor of {source} (preprocessor_config.json): {first_line(error)}"
        ) from error
