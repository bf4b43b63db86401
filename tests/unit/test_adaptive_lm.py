"""Adaptive embeddings and softmax against oracles: one wide table, and the adaptive softmax of torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from masks import uneven
from secateurs.adaptive_lm import AdaptiveLMConfig, AdaptiveLMForCausalLM
from secateurs.gates.gates import Gated, Gates
from secateurs.structure.cost import ParameterCost
from secateurs.structure.families import discover
from secateurs.structure.mask import Mask
from secateurs.surgery.shrink import shrink, zero_masked
from secateurs.tasks import task
from tiny_models import batch, tiny_model

TOLERANCE = 1e-12
TYPE = "secateurs-adaptive-lm"
EDGES = [0, 14, 33, 50]


def log_probabilities(model: Any, hidden: Tensor) -> Tensor:
    """The oracle, word by word: log-probability of the cluster plus log-probability of the word in it."""
    head = model.lm_head
    clusters = model.model.embed_tokens.clusters if head.clusters is None else head.clusters
    scores = []
    for index, cluster in enumerate(clusters):
        table = cluster.table.weight @ cluster.projection.linear.weight.T  # words x hidden
        scores.append(hidden @ table.T + head.bias[EDGES[index] : EDGES[index + 1]])
    choice = torch.cat([scores[0], hidden @ head.tails.weight.T + head.tails.bias], -1).log_softmax(-1)
    parts = [choice[:, :14]]
    for index in (1, 2):
        parts.append(choice[:, 14 + index - 1, None] + scores[index].log_softmax(-1))
    return torch.cat(parts, -1)


def hidden_states(model: Any) -> Tensor:
    with torch.no_grad():
        return model.model(**batch()).last_hidden_state


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_log_probabilities(tied: bool) -> None:
    model = tiny_model(TYPE, tie_word_embeddings=tied)
    with torch.no_grad():
        logits = model(**batch()).logits
        wanted = log_probabilities(model, hidden_states(model).flatten(0, 1)).view_as(logits)
    assert (logits - wanted).abs().max() < TOLERANCE
    assert (logits.exp().sum(-1) - 1).abs().max() < TOLERANCE


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"cutoffs": [], "embedding_sizes": [20]}])
def test_the_loss_is_that_of_the_log_probabilities(changes: dict[str, Any]) -> None:
    model, inputs = tiny_model(TYPE, **changes), batch()
    labels = inputs["input_ids"].clone()
    labels[:, -3:] = -100
    outputs = model(**inputs, labels=labels)
    assert outputs.logits is None, "scores of the full vocabulary are never held in memory"
    wanted = functional.cross_entropy(model(**inputs).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert abs(outputs.loss - wanted) < TOLERANCE
    summed = model(**inputs, labels=labels, num_items_in_batch=7).loss
    assert abs(summed - wanted * (labels[:, 1:] != -100).sum() / 7) < TOLERANCE
    gradients = torch.autograd.grad(outputs.loss, list(model.parameters()))
    slow = torch.autograd.grad(wanted, list(model.parameters()))
    assert max((one - other).abs().max() for one, other in zip(gradients, slow, strict=True)) < TOLERANCE


def test_an_untied_softmax_equals_the_adaptive_softmax_of_torch() -> None:
    """torch's has no projection for the first cluster, so the projection here is set to the identity."""
    model = tiny_model(TYPE, tie_word_embeddings=False, embedding_size=48)
    first, *others = model.lm_head.clusters
    with torch.no_grad():
        first.projection.linear.weight.copy_(torch.eye(48))
        model.lm_head.bias[14:] = 0  # torch has no biases in the other clusters
    reference = nn.AdaptiveLogSoftmaxWithLoss(48, 50, EDGES[1:3], div_value=2.0, head_bias=True).double()
    with torch.no_grad():
        reference.head.weight.copy_(torch.cat([first.table.weight, model.lm_head.tails.weight]))
        reference.head.bias.copy_(torch.cat([model.lm_head.bias[:14], model.lm_head.tails.bias]))
        for tail, cluster in zip(reference.tail, others, strict=True):
            tail[0].weight.copy_(cluster.projection.linear.weight.T)
            tail[1].weight.copy_(cluster.table.weight)
        hidden = hidden_states(model).flatten(0, 1)
        assert (model.lm_head(hidden, model.model.embed_tokens) - reference.log_prob(hidden)).abs().max() < TOLERANCE


def test_words_are_embedded_by_their_cluster() -> None:
    embeddings = tiny_model(TYPE).get_input_embeddings()
    wide = torch.cat([c.table.weight @ c.projection.linear.weight.T for c in embeddings.clusters]) * 48**0.5
    ids = torch.tensor([[0, 13, 14], [32, 33, 49]])
    assert (embeddings(ids) - wide[ids]).abs().max() < TOLERANCE


def test_fresh_embeddings_and_scores_have_variance_one_in_every_cluster() -> None:
    transformers.set_seed(0)
    config = AdaptiveLMConfig(vocab_size=3000, cutoffs=[1000, 2000], hidden_size=64, num_hidden_layers=1)
    embeddings = AdaptiveLMForCausalLM(config).get_input_embeddings()
    embedded = embeddings(torch.arange(3000)).view(3, -1)
    assert (embedded.std(-1) - 1).abs().max() < 0.2


def test_tied_tables_are_counted_once() -> None:
    tied, own = tiny_model(TYPE), tiny_model(TYPE, tie_word_embeddings=False)
    tables = (14 + 48) * 20 + (19 + 48) * 10 + (17 + 48) * 5
    assert own.num_parameters() - tied.num_parameters() == tables
    assert discover(tied, embeddings=True).sizes.keys() == discover(own, embeddings=True).sizes.keys()
    for model in (tied, own):
        cost = ParameterCost.of(model, discover(model, embeddings=True))
        widths = {name for name in cost.sizes if name.startswith("embeddings.")}
        assert len(widths) == 3
        without = cost(dict(cost.sizes) | dict.fromkeys(widths, 0))
        assert cost(cost.sizes) - without == tables


CASES = {
    "uneven": uneven,
    "one of each": lambda s: Mask({name: torch.arange(size) == size - 1 for name, size in s.sizes.items()}),
    "first cluster gone": lambda s: Mask({n: u & (n != "embeddings.0.rank") for n, u in uneven(s).kept.items()}),
    "all clusters gone": lambda s: Mask({n: u & ("embeddings" not in n) for n, u in uneven(s).kept.items()}),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_law_holds_for_widths(case: str, tied: bool) -> None:
    model = tiny_model(TYPE, tie_word_embeddings=tied)
    structure = discover(model, embeddings=True)
    cost, mask, inputs = ParameterCost.of(model, structure), CASES[case](structure), batch()
    zero_masked(model, structure, mask)
    small = shrink(copy.deepcopy(model), structure, mask)
    with torch.no_grad():
        assert (model(**inputs).logits - small(**inputs).logits).abs().max() < TOLERANCE
        losses = [each(**inputs, labels=inputs["input_ids"]).loss for each in (model, small)]
    assert abs(losses[0] - losses[1]) < TOLERANCE
    assert cost(mask.counts) == small.num_parameters()
    left = {name for name, count in mask.counts.items() if count and name.startswith("embeddings")}
    assert {name for name in discover(small, embeddings=True).sizes if name.startswith("embeddings")} == left


def test_one_gate_acts_on_embeddings_and_softmax() -> None:
    """The gate is folded into the projection. A gate of 0 gives the outputs of the model without that dimension."""
    model = tiny_model(TYPE)
    structure, inputs = discover(model, embeddings=True), batch()
    gated = Gated(model, structure, Gates(structure, coarse=False, hidden=False).double()).eval()
    counts = {name: max(1, size // 2) for name, size in structure.sizes.items()}
    opening = gated.gates.opened(counts)
    logits = gated.opened(opening, **inputs).logits
    mask = opening.mask()
    assert mask.counts == counts
    folded = gated.folded(opening)
    with torch.no_grad():
        assert (logits - folded(**inputs).logits).abs().max() < TOLERANCE
        assert (logits - shrink(folded, structure, mask)(**inputs).logits).abs().max() < TOLERANCE


def test_widths_are_left_out_by_default() -> None:
    """Methods that time sub-blocks, or replace them one by one, cannot handle groups that belong to no layer."""
    model = tiny_model(TYPE)
    assert all(group.layer for group in discover(model))
    assert [group.name for group in discover(model, embeddings=True) if not group.layer] == [
        f"embeddings.{index}.rank" for index in range(3)
    ]
    assert discover(tiny_model("llama"), embeddings=True).sizes == discover(tiny_model("llama")).sizes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cutoffs": [30, 10]}, "must ascend"),
        ({"cutoffs": [10, 50]}, "must ascend"),
        ({"cutoffs": [0, 10]}, "must ascend"),
        ({"cutoffs": [10], "embedding_sizes": [8, 4, 2]}, "2 widths"),
        ({"cutoffs": [10], "embedding_sizes": [8, -1]}, "at least 0"),
    ],
)
def test_clusters_must_fit_the_vocabulary(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        AdaptiveLMConfig(vocab_size=50, **changes)


def test_the_task_uses_the_loss_without_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Perplexity is computed without the scores of the full vocabulary, with the same result."""
    model, language = tiny_model(TYPE), task("causal_lm")
    rows = {name: value.clone() for name, value in batch(padding="right").items()}
    assert "labels" in language.inputs_for_loss(model, rows)
    assert "labels" not in language.inputs_for_loss(tiny_model("llama"), rows)
    alone = language.loss(model(**language.inputs_for_loss(model, rows)), rows)
    assert abs(alone - language.loss(model(**rows), rows)) < 1e-5, "the task computes the loss from logits in fp32"
    monkeypatch.setattr(model.lm_head, "forward", None)
    from secateurs.tasks.causal_lm.task import HeldOutWindows

    held_out = HeldOutWindows([rows], {})
    score = language.evaluate(model, held_out, "cpu")
    assert score.name == "perplexity" and score.value == pytest.approx(alone.exp().item(), rel=1e-12)
    bits = language.evaluate(model, HeldOutWindows([rows], {}, bytewise=True), "cpu")
    assert bits.name == "bits per byte" and bits.value == pytest.approx(alone.item() / 0.6931471805599453, rel=1e-12)
