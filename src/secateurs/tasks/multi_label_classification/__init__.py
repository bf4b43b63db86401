"""This task predicts for every class of a model whether a text has it, and is scored by micro-averaged F1."""

from secateurs.tasks.multi_label_classification.task import MultiLabelClassification

__all__ = ["MultiLabelClassification"]
