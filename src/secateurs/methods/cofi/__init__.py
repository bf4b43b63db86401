"""CoFi (Xia, Zhong, Chen 2022, 2204.00408): coarse and fine masks learned together, with layer-wise distillation."""

from secateurs.methods.cofi.method import METHOD, PRESETS, CoFi

__all__ = ["METHOD", "PRESETS", "CoFi"]
