"""The losses against numbers worked out by hand, against a second formulation, and by the sign of their gradients."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from formless.methods.training.ascent import gradient_ascent, weighted_gradient_ascent
from formless.methods.training.distillation import cross_entropy_unlearning, self_distillation
from formless.methods.training.losses import (
    IGNORED,
    cross_entropy,
    kl_divergence,
    sequence_log_probabilities,
    squared_distance,
    token_log_probabilities,
)
from formless.methods.training.preference import direct_preference, negative_preference, simple_negative_preference


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([[1, 2, 3, 4, 5], [IGNORED, IGNORED, 6, 0, IGNORED], [IGNORED, 2, 2, IGNORED, IGNORED]])


def plain(logits: Tensor, labels: Tensor) -> list[list[float]]:
    """Log-probabilities by the definition of softmax, number by number."""
    found = []
    for row, expected in zip(logits.tolist(), labels.tolist(), strict=True):
        found.append(
            [
                0.0 if label == IGNORED else math.log(math.exp(scores[label]) / sum(map(math.exp, scores)))
                for scores, label in zip(row, expected, strict=True)
            ]
        )
    return found


def test_token_log_probabilities_by_the_definition(logits: Tensor, labels: Tensor) -> None:
    assert torch.allclose(token_log_probabilities(logits, labels), torch.tensor(plain(logits, labels)), atol=1e-5)


def test_token_log_probabilities_by_hand() -> None:
    # softmax of (0, log 3) is (1/4, 3/4)
    found = token_log_probabilities(
        torch.tensor([[[0.0, math.log(3)], [0.0, math.log(3)], [5.0, -5.0]]]), torch.tensor([[0, 1, IGNORED]])
    )
    assert found.tolist()[0] == pytest.approx([math.log(0.25), math.log(0.75), 0.0], abs=1e-6)


def test_half_precision_logits_are_scored_in_float32(logits: Tensor, labels: Tensor) -> None:
    half = logits.to(torch.float16)
    found = token_log_probabilities(half, labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, token_log_probabilities(half.float(), labels))


def test_cross_entropy_by_hand_and_by_torch(logits: Tensor, labels: Tensor) -> None:
    by_hand = torch.tensor([[-1.0, -2.0, 0.0], [-6.0, 0.0, 0.0]])
    assert cross_entropy(by_hand, torch.tensor([[4, 5, IGNORED], [6, IGNORED, IGNORED]])).item() == pytest.approx(3.0)
    torchs = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    assert torch.allclose(cross_entropy(token_log_probabilities(logits, labels), labels), torchs, atol=1e-5)


def test_gradient_ascent_is_minus_the_cross_entropy(logits: Tensor, labels: Tensor) -> None:
    by_hand = torch.tensor([[-1.0, -2.0, 0.0], [-6.0, 0.0, 0.0]])
    assert gradient_ascent(by_hand, torch.tensor([[4, 5, IGNORED], [6, IGNORED, IGNORED]])).item() == pytest.approx(-3.0)
    torchs = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    assert torch.allclose(gradient_ascent(token_log_probabilities(logits, labels), labels), -torchs, atol=1e-5)


def test_negative_preference_by_hand() -> None:
    # L_theta - L_ref is 0 and log 3 / beta: sigmoids 1/2 and 3/4
    beta = 0.5
    policy = torch.tensor([-10.0, -10.0 - math.log(3) / beta])
    by_hand = -(2 / beta) * (math.log(1 / 2) + math.log(3 / 4)) / 2
    assert negative_preference(policy, torch.tensor([-10.0, -10.0]), beta).item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("beta", [0.02, 0.0275, 1.0])
def test_negative_preference_as_a_ratio_of_probabilities(beta: float) -> None:
    policy, reference = torch.tensor([-3.0, -5.0, -1.0]), torch.tensor([-4.0, -2.0, -1.5])
    # The paper's other form: (2 / beta) log(1 + (p / p_ref)^beta)
    ratios = [math.exp(p - r) for p, r in zip(policy.tolist(), reference.tolist(), strict=True)]
    other = sum(2 / beta * math.log(1 + ratio**beta) for ratio in ratios) / 3
    assert negative_preference(policy, reference, beta).item() == pytest.approx(other, rel=1e-5)


def test_negative_preference_starts_at_two_log_two_over_beta_and_stays_above_zero() -> None:
    same = torch.tensor([-50.0, -700.0])
    assert negative_preference(same, same, 0.1).item() == pytest.approx(20 * math.log(2), rel=1e-6)
    assert 0 <= negative_preference(same - 1e4, same, 0.1).item() < 1e-6
    assert math.isfinite(negative_preference(same + 1e5, same, 0.1).item())


def test_negative_preference_nears_gradient_ascent_as_beta_vanishes() -> None:
    policy = torch.tensor([-3.0, -5.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(negative_preference(policy, torch.tensor([-3.5, -4.0]), 1e-4), policy)
    assert gradient.tolist() == pytest.approx([0.5, 0.5], rel=1e-3)  # that of the mean log-probability, which GA lowers


def test_direct_preference_by_hand_and_by_a_loop() -> None:
    # The first gains log 3 / beta on its rejected response: sigmoid 3/4; the second nothing: 1/2
    beta = 0.1
    policy = torch.tensor([[-20.0 + math.log(3) / beta, -7.0], [-30.0, -9.0]])
    reference = torch.tensor([[-20.0, -8.0], [-30.0, -10.0]])
    by_hand = -(math.log(3 / 4) + math.log(1 / 2)) / 2
    assert direct_preference(policy, reference, beta).item() == pytest.approx(by_hand, rel=1e-5)
    loop = 0.0
    for i in range(2):
        margin = (policy[0, i] - reference[0, i]) - (policy[1, i] - reference[1, i])
        loop += -math.log(1 / (1 + math.exp(-beta * margin.item()))) / 2
    assert direct_preference(policy, reference, beta).item() == pytest.approx(loop, rel=1e-5)


def test_every_loss_pulls_the_right_way() -> None:
    labels = torch.tensor([[3, 4]])
    tokens = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    texts = torch.tensor([-3.0], requires_grad=True)
    pair = torch.tensor([[-3.0], [-4.0]], requires_grad=True)

    def direction(loss: Tensor, of: Tensor) -> list[float]:
        """Where a step of descent goes."""
        return (-torch.autograd.grad(loss, of)[0]).sign().flatten().tolist()

    assert direction(gradient_ascent(tokens, labels), tokens) == [-1, -1]
    assert direction(cross_entropy(tokens, labels), tokens) == [1, 1]
    assert direction(negative_preference(texts, texts.detach(), 0.1), texts) == [-1]
    assert direction(direct_preference(pair, pair.detach(), 0.1), pair) == [1, -1]


def test_texts_are_summed_over_tokens() -> None:
    assert sequence_log_probabilities(torch.tensor([[-1.0, -2.0, 0.0], [-4.0, 0.0, 0.0]])).tolist() == [-3.0, -4.0]


def test_weighted_ascent_by_hand_and_as_gradient_ascent() -> None:
    # Tokens of probability 1/2 and 1/4: (1/2)^2 log(1/2) + (1/4)^2 log(1/4), over two
    tokens, labels = torch.tensor([[math.log(1 / 2), math.log(1 / 4), 0.0]]), torch.tensor([[3, 4, IGNORED]])
    by_hand = (0.25 * math.log(1 / 2) + 0.0625 * math.log(1 / 4)) / 2
    assert weighted_gradient_ascent(tokens, labels, 2.0).item() == pytest.approx(by_hand, rel=1e-5)
    assert weighted_gradient_ascent(tokens, labels, 0.0).item() == pytest.approx(gradient_ascent(tokens, labels).item())
    tokens.requires_grad_(True)
    (gradient,) = torch.autograd.grad(weighted_gradient_ascent(tokens, labels, 1.0), tokens)
    assert gradient.tolist()[0] == pytest.approx([0.25, 0.125, 0.5], rel=1e-5)  # p / N: the weight has no gradient of its own


def test_simple_negative_preference_by_hand_and_as_the_papers_ratio() -> None:
    tokens = torch.tensor([[-1.0, -3.0, 0.0], [-6.0, 0.0, 0.0]])
    labels = torch.tensor([[4, 5, IGNORED], [6, IGNORED, IGNORED]])
    beta, gamma = 2.5, 0.5
    # log sigmoid(x) = -log(1 + exp(-x)) at x = beta 2 - gamma and beta 6 - gamma
    by_hand = (2 / beta) * sum(math.log(1 + math.exp(-(beta * mean - gamma))) for mean in (2.0, 6.0)) / 2
    assert simple_negative_preference(tokens, labels, beta, gamma).item() == pytest.approx(by_hand, rel=1e-5)
    longer = torch.cat([tokens, tokens], 1), torch.cat([labels, labels], 1)
    assert simple_negative_preference(*longer, beta, gamma).item() == pytest.approx(by_hand, rel=1e-5)  # length does not count


def test_self_distillation_by_hand() -> None:
    # The reference says (1/2, 1/4, 1/4); with the label's logit lowered by log 2 it is (1/3, 1/3, 1/3).
    reference = torch.tensor([[[math.log(2), 0.0, 0.0], [9.0, 9.0, 9.0]]])
    labels = torch.tensor([[0, IGNORED]])
    logits = torch.tensor([[[0.0, math.log(2), 0.0], [1.0, 2.0, 3.0]]])  # (1/4, 1/2, 1/4)
    by_hand = -(2 * math.log(1 / 4) + math.log(1 / 2)) / 3
    assert self_distillation(logits, reference, labels, math.log(2)).item() == pytest.approx(by_hand, rel=1e-5)
    at_best = reference.clone()
    at_best[0, 0, 0] -= math.log(2)
    at_best.requires_grad_(True)
    (gradient,) = torch.autograd.grad(self_distillation(at_best, reference, labels, math.log(2)), at_best)
    assert gradient.abs().max() < 1e-7


def test_cross_entropy_unlearning_by_hand_and_by_its_gradient() -> None:
    # (1/2, 1/4, 1/4) without the first is (0, 1/2, 1/2).
    logits = torch.tensor([[[math.log(2), 0.0, 0.0], [5.0, 1.0, 1.0]]], requires_grad=True)
    labels = torch.tensor([[0, IGNORED]])
    loss = cross_entropy_unlearning(logits, labels)
    assert loss.item() == pytest.approx(-math.log(1 / 4), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    # p - q with q held: the label's is its own probability.
    assert gradient[0, 0].tolist() == pytest.approx([0.5, -0.25, -0.25], rel=1e-5)
    assert not gradient[0, 1].any()


def test_divergence_by_hand_and_by_the_definition(logits: Tensor, labels: Tensor) -> None:
    reference = torch.tensor([[[math.log(3), 0.0], [7.0, 0.0]]])  # (3/4, 1/4)
    ours = torch.zeros(1, 2, 2)  # (1/2, 1/2)
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert kl_divergence(ours, reference, torch.tensor([[1, IGNORED]])).item() == pytest.approx(by_hand, rel=1e-5)
    other = logits.flip(1)
    p, q = other.softmax(-1), logits.softmax(-1)
    kept = labels != IGNORED
    defined = (p * (p / q).log()).sum(-1)[kept].mean()
    assert torch.allclose(kl_divergence(logits, other, labels), defined, atol=1e-5)
    assert kl_divergence(logits, logits, labels).item() == pytest.approx(0, abs=1e-7)


def test_squared_distance_by_hand() -> None:
    activations = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert squared_distance(activations, torch.tensor([1.0, 0.0]), mask).item() == pytest.approx((0 + 4 + 4 + 16) / 4)
    assert squared_distance(activations, activations, mask).item() == 0


def test_the_losses_of_the_field_pull_the_right_way() -> None:
    labels = torch.tensor([[0, 1, IGNORED]])
    tokens = torch.tensor([[-1.0, -2.0, 0.0]], requires_grad=True)
    for loss in (weighted_gradient_ascent(tokens, labels, 1.0), simple_negative_preference(tokens, labels, 2.5, 0.0)):
        (gradient,) = torch.autograd.grad(loss, tokens)
        assert (gradient[0, :2] > 0).all()
    logits = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    before = logits.detach().clone()
    for loss in (self_distillation(logits, before, labels, 5.0), cross_entropy_unlearning(logits, labels)):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient[0, 0, 0] > 0
        assert gradient[0, 1, 1] > 0
        assert not gradient[0, 2].any()
