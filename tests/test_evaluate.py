"""The misclassified images are exactly those, in test order, and the ten are the worst."""

import numpy as np
import pytest
import torch
from torch import nn

from normstudy.data import Split, load_images, normalise
from normstudy.evaluate import Evaluation, confusion_matrix, evaluate, evaluate_stack, misclassified
from normstudy.figures import ten_worst
from normstudy.model import DigitNet, stacked


def split_of(labels: list[int]) -> Split:
    count = len(labels)
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 1, 28, 28)
    return Split(images=images, labels=torch.tensor(labels), indices=torch.arange(count))


def evaluation_of(logits: torch.Tensor) -> Evaluation:
    return Evaluation(loss=0.0, accuracy=0.0, logits=logits)


def test_misclassified_are_exactly_the_wrong_answers_in_order_with_their_probabilities() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(200, 10, generator=generator), torch.randint(10, (200,), generator=generator)
    table = misclassified(evaluation_of(logits), split_of(labels.tolist()))
    wrong = [i for i in range(200) if logits[i].argmax() != labels[i]]
    assert table["index"].tolist() == wrong
    probabilities = logits.double().softmax(1).numpy()
    for row in table.itertuples():
        assert row.true == labels[row.index]
        assert row.predicted == logits[row.index].argmax()
        np.testing.assert_allclose(row.confidence, probabilities[row.index, row.predicted])
        np.testing.assert_allclose(row.confidence_true, probabilities[row.index, row.true])
        np.testing.assert_allclose(row.loss, -np.log(probabilities[row.index, row.true]))


def test_the_ten_have_the_highest_loss_and_of_equals_the_earlier_comes_first() -> None:
    logits = torch.zeros(14, 10)
    logits[:, 1] = torch.tensor([1.0, 5, 2, 5, 3, 4, 1, 1, 1, 9, 8, 7, 6, 2])
    table = ten_worst(misclassified(evaluation_of(logits), split_of([0] * 14)))
    assert table["index"].tolist() == [9, 10, 11, 12, 1, 3, 5, 4, 2, 13]


def test_confusion_matrix_counts_every_image_even_of_absent_digits() -> None:
    logits = torch.eye(10)[[0, 1, 1]]
    counts = confusion_matrix(evaluation_of(logits), split_of([0, 1, 2]))
    assert counts.shape == (10, 10)
    assert counts.to_numpy().sum() == 3
    assert (counts.loc[0, 0], counts.loc[1, 1], counts.loc[2, 1]) == (1, 1, 1)


class TrainModeIsOne(DigitNet):
    """Predicts class 1 in train mode, class 0 in eval mode."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.eye(10)[[int(self.training)] * len(images)] * 20


def test_evaluation_runs_in_eval_mode_over_every_image() -> None:
    found = evaluate(TrainModeIsOne("none").train(), split_of([0] * 3 + [1]))
    assert found.accuracy == 0.75
    assert len(found.logits) == 4
    assert abs(found.loss - 5.0) < 1e-3


def test_each_network_of_a_stack_is_evaluated_as_it_is_alone() -> None:
    test = load_images()[1].take(torch.arange(600))  # three batches, of which the last is smaller
    torch.manual_seed(0)
    networks = [DigitNet("bn") for _ in range(2)]
    for found, network in zip(evaluate_stack(stacked(networks), test), networks, strict=True):
        alone = network.eval()(normalise(test.images)).detach()
        torch.testing.assert_close(found.logits, alone, rtol=1e-4, atol=1e-4)
        assert found.accuracy == pytest.approx((alone.argmax(1) == test.labels).float().mean().item(), abs=2e-3)
        assert found.loss == pytest.approx(nn.functional.cross_entropy(alone, test.labels).item(), rel=1e-4)
        assert not found.logits.requires_grad
