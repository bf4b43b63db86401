"""What can be removed from a model, which part of it is kept, and what the kept part costs."""
