"""The task of this folder; the other files hold its parts."""

from secateurs.tasks.seq2seq.task import Seq2Seq

__all__ = ["Seq2Seq"]
