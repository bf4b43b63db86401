"""Changes to the modules of a model: shrinking, factorising, selecting inputs, masking norms."""
