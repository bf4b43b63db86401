"""The head and the sentences of a model card: the metadata, the citation, and what was done to the weights."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

import reports
from secateurs.methods import names
from secateurs.report.card import card
from secateurs.report.card_metadata import ModelFacts
from secateurs.report.values import Kept, Metric
from secateurs.structure.cut import Kind


def _front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_metadata_are_those_of_the_dense_card_and_the_measured_metric() -> None:
    original = replace(reports.report(), recipe={"data": "nyu-mll/glue:sst2"})
    facts = ModelFacts(
        {"license": "other", "license_name": "mine", "license_link": "LICENSE", "language": ["en", "de"],
         "datasets": "wikipedia", "tags": ["exbert"], "model-index": [{"name": "dense"}], "base_model": "far/away"}
    )  # fmt: skip
    front = _front(card(original, original.models[1], facts))
    assert (front["license"], front["license_name"], front["license_link"]) == ("other", "mine", "LICENSE")
    assert front["language"] == ["en", "de"]
    assert front["datasets"] == ["wikipedia", "nyu-mll/glue"]
    assert front["base_model"] == "bert-base-uncased"
    assert front["tags"] == ["secateurs", "pruning"]
    (index,) = front["model-index"]
    assert index["name"] == "bert-base-uncased speedup-2.00x"
    (evaluation,) = index["results"]
    assert evaluation["task"] == {"type": "text-classification"}
    assert evaluation["dataset"] == {"name": "nyu-mll/glue (sst2)", "type": "nyu-mll/glue", "config": "sst2"}
    assert evaluation["metrics"] == [{"type": "accuracy", "value": 0.8853, "name": "accuracy"}]
    local = _front(card(replace(original, model="./here"), original.models[1], facts))
    assert (local["base_model"], local["base_model_relation"]) == ("far/away", "finetune")
    for value in (float("inf"), float("nan")):
        broken = replace(original.models[1], metric=Metric("perplexity", value, 3.0))
        assert "model-index" not in _front(card(original, broken, facts))


def test_the_library_is_that_of_the_dense_model() -> None:
    original = reports.report()
    embedder = replace(original, pipeline_tag="sentence-similarity")
    assert _front(card(embedder, original.models[0]))["library_name"] == "sentence-transformers"
    reranker = ModelFacts({"library_name": "sentence-transformers", "pipeline_tag": "text-ranking"})
    text = card(original, original.models[0], reranker)
    assert (_front(text)["library_name"], _front(text)["pipeline_tag"]) == ("sentence-transformers", "text-ranking")
    assert 'CrossEncoder("speedup-1.50x")' in text


@pytest.mark.parametrize("method", names())
def test_the_card_cites_the_method_that_ran(method: str) -> None:
    """Every method of Secateurs: ZipLM's paper is cited where ZipLM ran, and nowhere else."""
    papers = {
        "ziplm": {"2302.04089"}, "uniform": {"2302.04089"}, "cofi": {"2204.00408"}, "flop": {"1910.04732"},
        "neuron_pruning": {"1910.04732"}, "fac": {"1910.04732"}, "agp": {"1710.01878", "1910.04732"},
        "agp_unstructured": {"1710.01878"}, "magnitude": {"1506.02626"}, "random_units": set(),
    }  # fmt: skip
    original = reports.report(method=method.replace("_", "-"))
    text = card(original, original.models[0])
    assert set(re.findall(r"arXiv:(\S+?)}", text)) == papers[method]
    assert ("## Citation" in text) == bool(papers[method])


def test_cofi_from_ziplms_masks_cites_both() -> None:
    original = replace(reports.report(method="cofi"), recipe={"hyperparameters": {"masks": "ziplm"}})
    assert re.findall(r"arXiv:(\S+?)}", card(original, original.models[0])) == ["2204.00408", "2302.04089"]


def test_the_card_says_what_was_done_to_the_weights() -> None:
    original = reports.report()
    uncut = replace(original.models[0], kept={"layer.0.heads": Kept(Kind.HEAD, 12, 12)})
    cut, zeros = "cut out of the weights, not masked", "0 in tensors of full size"
    for result, found, lost in (
        (original.models[0], [cut], [zeros, "Weights that are 0"]),
        (replace(original.models[0], zeros=0.7), [cut, "Weights that are 0 stay"], [zeros]),
        (replace(uncut, zeros=0.7), [zeros], [cut]),
        (uncut, ["No unit was cut out"], [cut, zeros]),
    ):
        text = card(original, result)
        assert all(part in text for part in found) and not any(part in text for part in lost)


def test_code_is_mentioned_where_the_folder_has_it() -> None:
    original = reports.report()
    plain = card(original, original.models[0], ModelFacts(has_code=False, dtype="bfloat16"))
    assert "trust_remote_code" not in plain and "import secateurs" not in plain
    assert 'AutoModelForSequenceClassification.from_pretrained("speedup-1.50x")' in plain
    assert "The weights are saved in bfloat16. Quality (metric and divergence) was computed in float32." in plain
