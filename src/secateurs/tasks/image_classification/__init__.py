"""This task is the classification of images, scored by accuracy."""

from secateurs.tasks.image_classification.task import ImageClassification

__all__ = ["ImageClassification"]
