"""Training of a model: one training loop, the objectives it can minimise, and the comparison with a dense teacher."""
