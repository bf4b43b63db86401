"""This task assigns a class to every word and is scored by entity F1, or by accuracy where no label marks an entity."""

from secateurs.tasks.token_classification.task import TokenClassification

__all__ = ["TokenClassification"]
