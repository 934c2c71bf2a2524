"""Loss, accuracy and the misclassified images of one split."""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from normstudy.data import MEMORY_FORMAT, Split, normalise
from normstudy.model import DigitNet


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model answers on a split: mean cross-entropy in nats, accuracy as a fraction, and all logits."""

    loss: float
    accuracy: float
    logits: Float[Tensor, "n classes"]


def evaluate(model: DigitNet, split: Split) -> Evaluation:
    """Run `model` in eval mode over a split, in order, without augmentation."""
    return evaluate_stack(model, split)[0]


@torch.inference_mode()
def evaluate_stack(model: DigitNet, split: Split) -> list[Evaluation]:
    """The same for each of the networks that `model` holds."""
    model.eval()
    # On a CPU core 16 take half as long again, 1,000 a fifth; on a GPU a large stack takes the memory of one of 10.
    batch = max(1, 25_000 // max(10, model.stack)) if split.images.is_cuda else 250
    answers = [
        model(
            normalise(images)
            .expand(-1, model.stack, -1, -1)
            .contiguous(memory_format=MEMORY_FORMAT[split.images.device.type])
        )
        for images in split.images.split(batch)
    ]
    logits = torch.cat(answers).view(len(split), model.stack, -1)
    return [evaluation_of(one, split) for one in logits.unbind(1)]


def evaluation_of(logits: Float[Tensor, "n classes"], split: Split) -> Evaluation:
    """What these logits of a split's images, in its order, come to."""
    correct = (logits.argmax(dim=1) == split.labels).sum().item()
    loss = functional.cross_entropy(logits, split.labels).item()
    return Evaluation(loss=loss, accuracy=correct / len(split), logits=logits.cpu())


def misclassified(evaluation: Evaluation, split: Split) -> pd.DataFrame:
    """One row for each misclassified image, in the order of the split.

    Columns: index (place in the original file), true, predicted, confidence (softmax probability of the prediction),
    confidence_true (of the true digit), loss (cross-entropy in nats).
    """
    labels = split.labels.cpu()
    log_probability = evaluation.logits.double().log_softmax(dim=1)
    predicted = evaluation.logits.argmax(dim=1)
    rows = (predicted != labels).nonzero().squeeze(1)
    true_log_probability = log_probability[rows, labels[rows]]
    return pd.DataFrame(
        {
            "index": split.indices.cpu()[rows].numpy(),
            "true": labels[rows].numpy(),
            "predicted": predicted[rows].numpy(),
            "confidence": log_probability[rows, predicted[rows]].exp().numpy(),
            "confidence_true": true_log_probability.exp().numpy(),
            "loss": -true_log_probability.numpy(),
        }
    )


def confusion_matrix(evaluation: Evaluation, split: Split) -> pd.DataFrame:
    """Counts of images by true digit (rows) and predicted digit (columns), 10 x 10."""
    true = pd.Categorical(split.labels.cpu().numpy(), categories=range(10))
    predicted = pd.Categorical(evaluation.logits.argmax(dim=1).numpy(), categories=range(10))
    return pd.crosstab(true, predicted, rownames=["true"], colnames=["predicted"], dropna=False)
