"""This task scores language models by perplexity, or by bits per byte where every token is a byte."""

from secateurs.tasks.causal_lm.task import CausalLM

__all__ = ["CausalLM"]
