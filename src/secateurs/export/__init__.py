"""Pruned models as files of other runtimes, checked against PyTorch."""
