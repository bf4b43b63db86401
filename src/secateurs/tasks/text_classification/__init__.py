"""Classification of texts or pairs of texts; regression if the model has one output."""

from secateurs.tasks.text_classification.task import TextClassification

__all__ = ["TextClassification"]
