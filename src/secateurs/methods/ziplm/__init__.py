"""ZipLM (Kurtic, Frantar, Alistarh 2023, 2302.04089): inference-aware structured pruning."""

from secateurs.methods.ziplm.method import METHOD, PRESETS, ZipLM

__all__ = ["METHOD", "PRESETS", "ZipLM"]
