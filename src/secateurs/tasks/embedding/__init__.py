"""This task covers models that embed a text as one vector: sentence-transformers models and plain encoders."""

from secateurs.tasks.embedding.task import Embedding

__all__ = ["Embedding"]
