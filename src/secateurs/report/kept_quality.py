"""``KeptQuality``: how much of the dense model's quality a model of ``--keep`` keeps, in data and in words."""

from __future__ import annotations

from dataclasses import field

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

__all__ = ["KeptQuality", "KeptTry"]

CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="strings")
DASH = "\N{EN DASH}"


@dataclass(frozen=True, config=CONFIG)
class KeptTry:
    """A model that was scored to choose the speed-up.

    Args:
        speedup: its speed-up by the latency table.
        kept: fraction of the dense score that it keeps on the texts that choose.
        low: lower bound of ``kept``, which decided.
        texts: number of these texts.
        measure: what the score is.
    """

    speedup: float
    kept: float
    low: float
    texts: int
    measure: str


@dataclass(frozen=True, config=CONFIG)
class KeptQuality:
    """The fraction of the dense score that a model keeps, on texts on which nothing was chosen.

    Args:
        measure: what the score is, such as ``"accuracy"``.
        value: score of the pruned model / score of the dense model; of a likelihood, the ratio of the perplexities.
        low: lower end of the 95 % interval over texts.
        high: upper end of the interval.
        texts: number of texts.
        chosen: the try of this model, on other texts, which chose its speed-up.
        tries: all tries of the run so far, for other shares too, in ascending order of their speed-ups.
    """

    measure: str
    value: float
    low: float
    high: float
    texts: int
    chosen: KeptTry
    tries: list[KeptTry] = field(default_factory=list)

    def keeps(self, share: float) -> bool | None:
        """Whether a share is kept: all of the interval says so, all of it denies it, or (``None``) the texts are too few."""
        return True if self.low >= share else False if self.high < share else None

    def __str__(self) -> str:
        """``99.4 % (98.9-99.8)``, with an en dash."""
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f}{DASH}{100 * self.high:.1f})"

    def sentence(self, share: float) -> str:
        """What was promised, on which texts, and what came.

        Args:
            share: the share that was asked for.
        """
        chosen = self.chosen
        promised = (
            f"{chosen.speedup:.2f}x by the latency table was chosen, where {chosen.texts} texts kept "
            f"{100 * chosen.kept:.1f} % of the {chosen.measure}, at least {100 * chosen.low:.1f} %. "
        )
        verdict = {
            True: "which confirms the share",
            False: "so the share is missed",
            None: "which neither confirms nor denies the share: it needs more texts",
        }[self.keeps(share)]
        return (
            f"Keep {100 * share:g} %: {promised}On {self.texts} other texts, the reported ones, the model keeps {self} of "
            f"the {self.measure}, {verdict}."
        )
