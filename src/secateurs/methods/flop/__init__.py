"""FLOP (Wang, Wohlwend, Lei 2020, 1910.04732): the rank of every matrix is learned together with the weights."""

from secateurs.methods.flop.method import FLOP, METHOD, PRESETS

__all__ = ["FLOP", "METHOD", "PRESETS"]
