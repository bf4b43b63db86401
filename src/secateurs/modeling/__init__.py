"""The code that rebuilds a pruned model from its config, and the classes it is built from."""
