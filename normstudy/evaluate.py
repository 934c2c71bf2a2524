"""Loss, accuracy and the misclassified images of one split."""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from normstudy.data import Split, normalise


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model answers on a split: mean cross-entropy in nats, accuracy as a fraction, and all logits."""

    loss: float
    accuracy: float
    logits: Float[Tensor, "n classes"]


def evaluate(model: nn.Module, split: Split, memory_format: torch.memory_format) -> Evaluation:
    """Run `model` in eval mode over a split, in order, without augmentation."""
    return evaluate_stack(model, split, memory_format, stack=1)[0]


@torch.inference_mode()
def evaluate_stack(
    model: nn.Module, split: Split, memory_format: torch.memory_format, *, stack: int
) -> list[Evaluation]:
    """The same for each of the `stack` networks that `model` holds."""
    model.eval()
    batch = 2_500 if split.images.is_cuda else 250  # on a CPU core 16 take half as long again, 1,000 a fifth
    answers = [
        model(normalise(images).expand(-1, stack, -1, -1).contiguous(memory_format=memory_format))
        for images in split.images.split(batch)
    ]
    logits = torch.cat(answers).view(len(split), stack, -1)
    return [_judged(one, split) for one in logits.unbind(1)]


def _judged(logits: Float[Tensor, "n classes"], split: Split) -> Evaluation:
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
