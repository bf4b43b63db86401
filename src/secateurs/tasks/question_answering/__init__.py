"""This task finds the span of a context that answers a question and is scored by F1 and exact match, as SQuAD is."""

from secateurs.tasks.question_answering.task import QuestionAnswering

__all__ = ["QuestionAnswering"]
