from __future__ import annotations

import json
import math

import pytest

from orchestrator.workers.cross_encoder_losses import LISTS, LOSSES, Loss, LossSettings, load_rows, of_formula
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.train_cross_encoder import parse_settings
from orchestrator.workers.training import guard_loss

LN2 = math.log(2)
SETTINGS = {
    "version": 1, "model": "m", "family": "encoder", "form": LISTS, "train": "/t", "max_length": 8, "shuffle_ratio": 0.0,
    "stable_ratio": None, "early_stopping": None, "deterministic": False, "trust_remote_code": False,
    "arguments": {"output_dir": "/o"},
}  # fmt: skip


def build_scorer(scores: list[float]):
    """A CrossEncoder whose score of a document named "2" is its parameter number 2: formulas are tested on it by hand."""
    import torch
    from sentence_transformers import CrossEncoder

    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scores = torch.nn.Parameter(torch.tensor(scores))
            self.calls = 0

        def preprocess(self, inputs, **_):
            return {"index": torch.tensor([int(document) for _query, document in inputs])}

        def forward(self, features):
            self.calls += 1
            return {"scores": self.scores[features["index"]][:, None]}

    return CrossEncoder(modules=[Table()], device="cpu")


def compute(name: str, scores: list[float], inputs: list, labels: list, **changes):
    """Return the loss as a number, and its derivative by each score."""
    import torch

    model = build_scorer(scores)
    loss = LOSSES[name].build(model, LossSettings(name, **changes))
    truth = [torch.tensor(row) for row in labels] if isinstance(labels[0], list) else torch.tensor(labels)
    value = loss(inputs, truth)
    value.backward()
    assert model[0].calls == (2 if name == "margin_mse" else 1)
    return value.item(), model[0].scores.grad.tolist()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(scores: list[float]) -> list[float]:
    total = sum(map(math.exp, scores))
    return [math.exp(score) / total for score in scores]


def test_pointwise_bce_is_the_cross_entropy_of_the_sigmoid_with_a_label_that_may_lie_between():
    scores, labels = [2.0, -1.0, 0.5], [1.0, 0.0, 0.25]
    value, gradient = compute("pointwise_bce", scores, [["q"] * 3, ["0", "1", "2"]], labels)
    each = [
        -label * math.log(sigmoid(score)) - (1 - label) * math.log(1 - sigmoid(score))
        for score, label in zip(scores, labels, strict=True)
    ]
    assert value == pytest.approx(sum(each) / 3)
    expected = [(sigmoid(score) - label) / 3 for score, label in zip(scores, labels, strict=True)]
    assert gradient == pytest.approx(expected)


def test_pos_weight_multiplies_what_positives_cost():
    value, _ = compute("pointwise_bce", [2.0, -1.0], [["q", "q"], ["0", "1"]], [1.0, 0.0], pos_weight=3)
    assert value == pytest.approx((-3 * math.log(sigmoid(2)) - math.log(1 - sigmoid(-1))) / 2)


def test_pointwise_mse_is_the_mean_squared_distance_to_the_label():
    value, gradient = compute("pointwise_mse", [2.0, -1.0], [["q", "q"], ["0", "1"]], [0.5, 0.0])
    assert value == pytest.approx((1.5**2 + 1) / 2)
    assert gradient == pytest.approx([1.5, -1.0])


def test_the_sigmoid_brings_scores_into_the_range_of_labels():
    value, _ = compute("pointwise_mse", [2.0, -1.0], [["q", "q"], ["0", "1"]], [1.0, 0.0], activation="sigmoid")
    assert value == pytest.approx(((sigmoid(2) - 1) ** 2 + sigmoid(-1) ** 2) / 2)


def test_ranknet_sums_the_pairs_of_a_query_by_how_far_their_labels_are_apart():
    scores, labels = [0.5, 1.5, -1.0], [1.0, 0.0, 0.5]
    value, gradient = compute("pairwise_ranknet", scores, [["q"], [["0", "1", "2"]]], [labels])
    # worse before better: (1, 0) by 1, (1, 2) by a half, (2, 0) by a half
    expected = math.log(1 + math.exp(1.0)) + 0.5 * math.log(1 + math.exp(2.5)) + 0.5 * math.log(1 + math.exp(-1.5))
    assert value == pytest.approx(expected)
    by_hand = [
        -sigmoid(1.0) - 0.5 * sigmoid(-1.5),
        sigmoid(1.0) + 0.5 * sigmoid(2.5),
        -0.5 * sigmoid(2.5) + 0.5 * sigmoid(-1.5),
    ]
    assert gradient == pytest.approx(by_hand)


def test_equal_labels_make_no_pair():
    value, gradient = compute("pairwise_ranknet", [0.5, 1.5], [["q"], [["0", "1"]]], [[1.0, 1.0]])
    assert value == 0
    assert gradient == [0, 0]


def test_listwise_ce_is_minus_the_log_of_the_positives_share():
    scores = [0.5, 1.5, -1.0]
    value, gradient = compute("listwise_ce", scores, [["q"], [["0", "1", "2"]]], [[0.0, 1.0, 0.0]])
    share = softmax(scores)
    assert value == pytest.approx(-math.log(share[1]))
    assert gradient == pytest.approx([share[0], share[1] - 1, share[2]])


def test_graded_listwise_ce_reads_the_labels_as_a_distribution():
    scores, labels = [0.5, 1.5, -1.0], [1.0, 0.0, 0.5]
    value, gradient = compute("listwise_ce", scores, [["q"], [["0", "1", "2"]]], [labels], graded=True)
    share = softmax(scores)
    assert value == pytest.approx(-(2 / 3) * math.log(share[0]) - (1 / 3) * math.log(share[2]))
    assert gradient == pytest.approx([share[0] - 2 / 3, share[1], share[2] - 1 / 3])


@pytest.mark.parametrize(
    ("name", "changes"), [("pairwise_ranknet", {}), ("listwise_ce", {}), ("listwise_ce", {"graded": True})]
)
def test_lists_of_different_lengths_are_a_mean_over_queries_without_padding(name, changes):
    scores = [0.5, 1.5, -1.0, 0.25, 2.0]
    lists, labels = [["0", "1", "2"], ["3", "4"]], [[1.0, 0.25, 0.0], [0.0, 1.0]]
    both, _ = compute(name, scores, [["q", "r"], lists], labels, **changes)
    alone = [
        compute(name, scores, [["q"], [documents]], [truth], **changes)[0]
        for documents, truth in zip(lists, labels, strict=True)
    ]
    assert both == pytest.approx(sum(alone) / 2)


def lambda_by_hand(scores: list[float], labels: list[float], k: int | None = None) -> float:
    """NDCGLoss2++ of Wang et al. 2018 with μ = 10, in plain numbers: the mean over pairs i above j in the labels."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    discount = [math.log2(2 + rank) for rank in range(len(scores))]
    ideal = sorted(labels, reverse=True)[:k]
    best = sum((2**label - 1) / discount[rank] for rank, label in enumerate(ideal))
    gain = [(2 ** labels[index] - 1) / best for index in order]
    total, pairs = 0.0, 0
    for i, first in enumerate(order):
        for j, second in enumerate(order):
            if labels[first] <= labels[second] or (k and min(i, j) >= k):
                continue
            apart = abs(i - j)
            weight = 10 * abs(1 / discount[apart - 1] - 1 / discount[apart])
            weight += abs(1 / discount[i] - 1 / discount[j])
            log2_sigmoid = math.log(sigmoid(scores[first] - scores[second])) / LN2
            total -= weight * abs(gain[i] - gain[j]) * log2_sigmoid
            pairs += 1
    return total / pairs


@pytest.mark.parametrize("k", [None, 1])
def test_lambda_loss_weights_pairs_by_what_a_swap_changes_in_ndcg(k):
    scores, labels = [0.5, 1.5, -1.0, 0.75], [1.0, 0.0, 0.5, 0.25]
    value, gradient = compute("lambda_loss", scores, [["q"], [["0", "1", "2", "3"]]], [labels], k=k)
    assert value == pytest.approx(lambda_by_hand(scores, labels, k), rel=1e-5)
    assert gradient[0] < 0 < gradient[1]


def test_lambda_loss_leaves_padding_out():
    scores = [0.5, 1.5, -1.0, 0.25, 2.0]
    value, _ = compute(
        "lambda_loss", scores, [["q", "r"], [["0", "1", "2"], ["3", "4"]]], [[1.0, 0.5, 0.0], [1.0, 0.0]]
    )
    # a mean over the pairs of the batch: three of the first query, one of the second
    first, second = lambda_by_hand(scores[:3], [1.0, 0.5, 0.0]), lambda_by_hand(scores[3:], [1.0, 0.0])
    assert value == pytest.approx((3 * first + second) / 4, rel=1e-5)


def test_list_mle_is_the_likelihood_of_the_documents_in_the_order_that_they_come_in():
    scores = [0.5, 1.5, -1.0]
    value, gradient = compute("list_mle", scores, [["q"], [["0", "1", "2"]]], [[1.0, 0.5, 0.0]])
    assert value == pytest.approx(-math.log(softmax(scores)[0]) - math.log(softmax(scores[1:])[0]), rel=1e-5)
    assert gradient[0] < 0 < gradient[2]
    turned, _ = compute("list_mle", scores, [["q"], [["2", "1", "0"]]], [[1.0, 0.5, 0.0]])
    again = scores[::-1]
    assert turned == pytest.approx(-math.log(softmax(again)[0]) - math.log(softmax(again[1:])[0]), rel=1e-5)


def test_list_mle_leaves_padding_out():
    scores = [0.5, 1.5, -1.0, 0.25, 2.0]
    value, _ = compute("list_mle", scores, [["q", "r"], [["0", "1", "2"], ["3", "4"]]], [[1.0, 0.5, 0.0], [1.0, 0.0]])
    first = -math.log(softmax(scores[:3])[0]) - math.log(softmax(scores[1:3])[0])
    assert value == pytest.approx((first - math.log(softmax(scores[3:])[0])) / 2, rel=1e-5)


def rank_errors_by_hand(scores, labels, alpha):
    errors = []
    for one, label in zip(scores, labels, strict=True):
        place = sum(other > label for other in labels) + (labels.count(label) + 1) / 2
        near = 0.5 + sum(sigmoid(alpha * (other - one)) for other in scores)  # itself counts a half
        errors.append((place - near) ** 2 / math.log2(place + 1))
    return errors


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_adr_mse_holds_smooth_ranks_against_those_of_the_labels(alpha):
    scores = [0.5, 1.5, -1.0, 0.25, 2.0]
    inputs, labels = [["q", "r"], [["0", "1", "2"], ["3", "4"]]], [[1.0, 0.5, 0.5], [0.0, 1.0]]
    value, _ = compute("adr_mse", scores, inputs, labels, alpha=alpha)
    errors = rank_errors_by_hand(scores[:3], labels[0], alpha) + rank_errors_by_hand(scores[3:], labels[1], alpha)
    assert value == pytest.approx(sum(errors) / 5, rel=1e-4)


def test_list_net_compares_the_softmax_of_scores_and_labels():
    scores = [0.5, 1.5, -1.0, 0.25, 2.0]
    inputs, labels = [["q", "r"], [["0", "1", "2"], ["3", "4"]]], [[3.0, -1.0, 0.5], [0.0, 1.0]]
    value, _ = compute("list_net", scores, inputs, labels)
    by_hand = [
        -sum(wanted * math.log(found) for wanted, found in zip(softmax(truth), softmax(own), strict=True))
        for truth, own in ((labels[0], scores[:3]), (labels[1], scores[3:]))
    ]
    assert value == pytest.approx(sum(by_hand) / 2, rel=1e-5)


def test_plist_mle_weighs_the_first_places_most():
    scores = [0.5, 1.5, -1.0]
    value, _ = compute("plist_mle", scores, [["q"], [["0", "1", "2"]]], [[1.0, 0.5, 0.0]])
    steps = [-math.log(softmax(scores[place:])[0]) for place in range(3)]
    assert value == pytest.approx((3 * steps[0] + 1 * steps[1]) / 4, rel=1e-5)  # 2^(3 - rank) - 1


@pytest.mark.parametrize("weighting", ["none", "ndcg1", "ndcg2", "lambdarank"])
def test_lambda_loss_takes_every_weighting_of_the_library(weighting):
    from sentence_transformers.cross_encoder.losses import LambdaLoss, lambda_loss

    scores, rows = [0.5, 1.5, -1.0], [["q"], [["0", "1", "2"]]]
    value, _ = compute("lambda_loss", scores, rows, [[1.0, 0.0, 0.5]], weighting=weighting)
    other, _ = compute("lambda_loss", scores, rows, [[1.0, 0.0, 0.5]])
    name = {"none": "NoWeightingScheme", "lambdarank": "LambdaRankScheme"}.get(
        weighting, weighting.replace("ndcg", "NDCGLoss") + "Scheme"
    )
    import torch

    by_library = LambdaLoss(build_scorer(scores), getattr(lambda_loss, name)())(rows, [torch.tensor([1.0, 0.0, 0.5])])
    assert value == pytest.approx(by_library.item())
    assert value != pytest.approx(other)


@pytest.mark.parametrize("name", ["lambda_loss", "list_mle", "plist_mle", "list_net", "adr_mse"])
def test_documents_may_pass_the_model_in_parts_without_another_loss(name):
    import torch

    scores, rows = [0.5, 1.5, -1.0, 0.25], [["q"], [["0", "1", "2", "3"]]]
    labels = [[1.0, 0.75, 0.5, 0.0]]
    whole, gradient = compute(name, scores, rows, labels)
    model = build_scorer(scores)
    value = LOSSES[name].build(model, LossSettings(name, mini_batch_size=3))(rows, [torch.tensor(labels[0])])
    value.backward()
    assert model[0].calls == 2
    assert value.item() == pytest.approx(whole)
    assert model[0].scores.grad.tolist() == pytest.approx(gradient)


def test_margin_mse_compares_differences_of_scores_with_the_teachers():
    scores = [2.0, 0.5, -1.0, 1.0]
    value, gradient = compute("margin_mse", scores, [["q", "r"], ["0", "2"], ["1", "3"]], [3.0, -0.5])
    assert value == pytest.approx(((1.5 - 3.0) ** 2 + (-2.0 + 0.5) ** 2) / 2)
    assert gradient == pytest.approx([-1.5, 1.5, -1.5, 1.5])


def test_margin_mse_takes_a_sigmoid_before_it_compares():
    value, _ = compute("margin_mse", [2.0, 0.5], [["q"], ["0"], ["1"]], [1.0], activation="sigmoid")
    assert value == pytest.approx((sigmoid(2.0) - sigmoid(0.5) - 1) ** 2)


def test_mnrl_chooses_the_answer_among_all_texts_of_the_batch_and_cached_mnrl_is_the_same_in_parts():
    scores = [0.5, 1.5, -1.0, 0.25]
    columns = [["q", "r"], ["0", "1"], ["2", "3"]]  # query, answer, negative
    found = {}
    for name, changes in (("mnrl", {}), ("cached_mnrl", {"mini_batch_size": 3})):
        model = build_scorer(scores)
        settings = LossSettings(name, num_negatives=9, scale=5.0, activation="sigmoid", **changes)
        value = LOSSES[name].build(model, settings)(columns, None)
        value.backward()
        found[name] = (value.item(), model[0].scores.grad.tolist())
    near = [5 * sigmoid(score) for score in scores]
    of_q, of_r = softmax([near[0], near[1], near[3], near[2]])[0], softmax([near[1], near[0], near[2], near[3]])[0]
    assert found["mnrl"][0] == pytest.approx(-(math.log(of_q) + math.log(of_r)) / 2, rel=1e-5)
    assert found["cached_mnrl"][0] == pytest.approx(found["mnrl"][0])
    assert found["cached_mnrl"][1] == pytest.approx(found["mnrl"][1], abs=1e-7)


def test_rows_of_mnrl_are_columns_of_as_many_negatives_as_every_row_has(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"query": "q", "documents": ["a", "n", "m"], "labels": [1, 0, 0]},
        {"query": "r", "documents": ["b", "o"], "labels": [1, 0]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_rows(path, LossSettings("mnrl"))
    assert found.answers() == {"query": ["q", "r"], "positive": ["a", "b"], "negative_1": ["n", "o"]}
    path.write_text(json.dumps({"query": "q", "documents": ["a", "n"], "labels": [0, 1]}) + "\n")
    with pytest.raises(WorkerError, match="one relevant document, the first"):
        load_rows(path, LossSettings("cached_mnrl"))


def test_no_loss_overflows_where_the_scores_are_far_apart():
    for name, one in LOSSES.items():
        if one.form == "cross-encoder-lists" and not one.answers:
            value, gradient = compute(name, [-1e4, 1e4], [["q"], [["0", "1"]]], [[1.0, 0.0]])
            assert math.isfinite(value), name
            # the sigmoid of adr_mse is level there: it learns nothing from what is that far off
            assert gradient[0] < 0 < gradient[1] or (name == "adr_mse" and gradient == [0, 0]), name


def test_a_loss_is_added_by_one_line(monkeypatch, tmp_path):
    def spread(scores, labels, _settings):
        return (scores - labels).abs().max()

    monkeypatch.setitem(
        LOSSES, "list_max", Loss(LISTS, of_formula(spread), check=lambda labels, _: "no" * (labels == [2]))
    )
    value, _ = compute("list_max", [0.5, 3.0], [["q"], [["0", "1"]]], [[1.0, 0.0]])
    assert value == 3.0
    raw = {**SETTINGS, "loss": {"type": "list_max"}}
    assert parse_settings(raw, "train.json").loss.type == "list_max"
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"query": "q", "documents": ["d"], "labels": [2]}) + "\n")
    with pytest.raises(WorkerError, match="train.jsonl:1: no"):
        load_rows(path, LossSettings("list_max"))


def test_a_loss_that_is_not_finite_ends_the_training_and_says_what_to_do():
    loss = LOSSES["listwise_ce"].build(build_scorer([float("nan"), 0.0]), LossSettings("listwise_ce"))
    guard_loss(loss)
    import torch

    with pytest.raises(WorkerError, match=r"of a training step is nan: .* Lower learning_rate"):
        loss([["q"], [["0", "1"]]], [torch.tensor([1.0, 0.0])])
    loss.model.eval()
    with pytest.raises(WorkerError, match="on the validation rows is nan"):
        loss([["q"], [["0", "1"]]], [torch.tensor([1.0, 0.0])])


PAIR = {"query": "q", "document": "d", "label": 1}
LIST = {"query": "q", "documents": ["d", "e"], "labels": [1, 0]}
MARGIN = {"query": "q", "positive": "d", "negative": "e", "label": 2.5}


@pytest.mark.parametrize(
    ("loss", "row", "words"),
    [
        (LossSettings("pointwise_bce"), {**PAIR, "label": 1.5}, "probabilities, from 0 to 1"),
        (LossSettings("pointwise_mse"), {**PAIR, "label": True}, "label is True"),
        (LossSettings("pointwise_mse"), {**PAIR, "label": float("nan")}, "finite number"),
        (LossSettings("pointwise_mse"), {**PAIR, "document": " "}, "document must be a text that is not empty"),
        (LossSettings("pointwise_mse"), {"query": "q", "document": "d"}, "is an object of query, document, label"),
        (LossSettings("margin_mse"), {**MARGIN, "negative": None}, "negative must be a text"),
        (LossSettings("lambda_loss"), {**LIST, "labels": [1]}, "a list of 2 numbers"),
        (LossSettings("lambda_loss"), {**LIST, "labels": [1, "0"]}, "labels hold '0'"),
        (LossSettings("lambda_loss"), {**LIST, "documents": [], "labels": []}, "at least one text"),
        (LossSettings("list_mle"), {**LIST, "labels": [0, 1]}, "not sorted by label, highest first"),
        (LossSettings("listwise_ce"), {**LIST, "labels": [1, 0.5]}, "2 documents are relevant"),
        (LossSettings("listwise_ce", graded=True), {**LIST, "labels": [0, 0]}, "one must be above"),
        (LossSettings("listwise_ce", graded=True), {**LIST, "labels": [1, -1]}, "none may be below 0"),
    ],
)
def test_a_row_that_the_loss_cannot_learn_from_is_named_by_file_and_line(loss, row, words, tmp_path):
    path = tmp_path / "train.jsonl"
    good = {"cross-encoder-pairs": PAIR, "cross-encoder-lists": LIST, "cross-encoder-margins": MARGIN}[
        LOSSES[loss.type].form
    ]
    path.write_text(json.dumps(good) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(WorkerError) as error:
        load_rows(path, loss)
    assert len(error.value.problems) == 1
    assert error.value.problems[0].startswith(f"{path}:3: ")
    assert words in error.value.problems[0]
