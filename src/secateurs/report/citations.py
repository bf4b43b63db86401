"""The papers of the methods, for model cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["citations"]

PAPERS = {
    "ZipLM": """@inproceedings{kurtic2023ziplm,
  title     = {{ZipLM}: Inference-Aware Structured Pruning of Language Models},
  author    = {Kurtic, Eldar and Frantar, Elias and Alistarh, Dan},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  note      = {arXiv:2302.04089}
}""",
    "CoFi": """@inproceedings{xia2022cofi,
  title     = {Structured Pruning Learns Compact and Accurate Models},
  author    = {Xia, Mengzhou and Zhong, Zexuan and Chen, Danqi},
  booktitle = {Annual Meeting of the Association for Computational Linguistics},
  year      = {2022},
  note      = {arXiv:2204.00408}
}""",
    "FLOP": """@inproceedings{wang2020flop,
  title     = {Structured Pruning of Large Language Models},
  author    = {Wang, Ziheng and Wohlwend, Jeremy and Lei, Tao},
  booktitle = {Conference on Empirical Methods in Natural Language Processing},
  year      = {2020},
  note      = {arXiv:1910.04732}
}""",
    "automated gradual pruning": """@inproceedings{zhu2018prune,
  title     = {To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression},
  author    = {Zhu, Michael and Gupta, Suyog},
  booktitle = {International Conference on Learning Representations, Workshop Track},
  year      = {2018},
  note      = {arXiv:1710.01878}
}""",
    "magnitude pruning": """@inproceedings{han2015learning,
  title     = {Learning both Weights and Connections for Efficient Neural Networks},
  author    = {Han, Song and Pool, Jeff and Tran, John and Dally, William J.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2015},
  note      = {arXiv:1506.02626}
}""",
}
"""What a paper introduced -> its BibTeX entry."""

OF_METHODS = {
    "ziplm": ("ZipLM",),
    "uniform": ("ZipLM",),
    "cofi": ("CoFi",),
    "flop": ("FLOP",),
    "neuron_pruning": ("FLOP",),
    "fac": ("FLOP",),
    "agp": ("automated gradual pruning", "FLOP"),
    "agp_unstructured": ("automated gradual pruning",),
    "magnitude": ("magnitude pruning",),
}
"""Method -> what it is made of. Random pruning has no paper."""


def citations(method: str, recipe: Mapping[str, Any]) -> dict[str, str]:
    """The papers of the method that ran: what each introduced -> its BibTeX entry; empty for a method without a paper.

    Args:
        method: name of the method.
        recipe: the recipe of the run. CoFi that starts from ZipLM's masks uses both.
    """
    names = OF_METHODS.get(method.replace("-", "_"), ())
    settings = recipe.get("hyperparameters")
    if "CoFi" in names and isinstance(settings, Mapping) and settings.get("masks") == "ziplm":
        names = (*names, "ZipLM")
    return {name: PAPERS[name] for name in names}
