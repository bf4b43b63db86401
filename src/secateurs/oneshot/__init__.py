"""What pruning without training is made of: calibration, levels, search, refit."""
