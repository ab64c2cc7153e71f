"""The long run: what limits a language model

By the end you will have a recurrent network that is regularised in four places and forecasts a book better than any network of the page before, a unit of it that you can watch while it counts the letters of a word, and pages that it wrote.
"""

# cell long0002 a6284e · The long run: what limits a language model
from __future__ import annotations

# generated from nbs/11e_long_run.ipynb: do not edit · c249c4
__all__ = [
    "WeightDropLSTM",
    "ActivationPenalty",
    "forecast_bits",
    "text_features",
    "read_states",
    "correlations",
    "best_units",
    "readout",
]
__dir__ = __all__.copy  # what completion offers

# cell long0002 9332d7 · The long run: what limits a language model
import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb03f import Callback
from exp.nb04 import Learner
from exp.nb11b import RecurrentLM, StatefulTraining, detach


# cell 66faeb35 0840e3 · Regularisation: the parts of AWD-LSTM, one by one
class WeightDropLSTM(nn.LSTM):
    """An LSTM that sets a share of its hidden-to-hidden weights to 0 in each call during training.

    Its state_dict is that of torch.nn.LSTM.
    Raises: ValueError unless 0 <= weight_drop < 1.
    Source: Merity and others 2018, section 2 (after DropConnect).
    """

    def __init__(self, *sizes: int, weight_drop: float = 0.0, **options: Any):
        if not 0 <= weight_drop < 1:
            raise ValueError(f"weight_drop must satisfy 0 <= weight_drop < 1, got {weight_drop}")
        super().__init__(*sizes, **options)
        self.weight_drop = weight_drop

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
                ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer with thinned weights, and restore its own afterwards."""
        own = self._flat_weights
        try:
            self._flat_weights = [
                F.dropout(w, self.weight_drop, self.training) if "weight_hh" in name else w
                for name, w in zip(self._flat_weights_names, own, strict=True)]
            return super().forward(x, state)
        finally:
            self._flat_weights = own


# cell 0b1ea26f 9d7acb · Regularisation: the parts of AWD-LSTM, one by one
class ActivationPenalty(Callback):
    """Add alpha · mean(h²) after dropout, and beta · mean((h_t - h_{t-1})²) before it, to the loss.

    Raises: ValueError for negative strengths; TypeError, in a fit, if the model's `Reading` has no
        activations.
    Source: Merity and others 2018, section 4.6 (AR and TAR).
    """

    requires: ClassVar[tuple[type[Callback], ...]] = (StatefulTraining,)
    order: ClassVar[int] = 6

    def __init__(self, alpha: float = 0.0, beta: float = 0.0):
        if alpha < 0 or beta < 0:
            raise ValueError(f"alpha and beta must be 0 or more, got {alpha} and {beta}")
        self.alpha, self.beta = alpha, beta

    def after_loss(self, learn: Learner) -> None:
        if learn.training:
            reading = learn.callback(StatefulTraining).reading
            if reading.raw is None:
                raise TypeError(f"{type(learn.model).__name__} returns no activations to penalise; "
                                "its Reading needs raw and dropped")
            learn.loss = learn.loss + self.alpha * reading.dropped.square().mean()
            if len(reading.raw) > 1:
                learn.loss = learn.loss + self.beta * reading.raw.diff(dim=0).square().mean()


# cell long0011 135f32 · Better forecasts without more training
def forecast_bits(model: nn.Module, codes: Tensor, steps: int = 64, adapt_lr: float = 0.0,
                  pull: float = 0.0) -> Tensor:
    """Return the bits of each character of a text but the first, read in order.

    With `adapt_lr`, a copy of the model makes a step of gradient descent after each `steps`
    characters, on those that it has just forecast, and goes a share `pull` of the way back.
    Shape: codes (n,) -> (n - 1,).
    Source: Krause and others 2018, section 3, with plain steps.
    """
    begun, model, state, found = model, copy.deepcopy(model).eval(), None, []
    for x, y in zip(codes[:-1].split(steps), codes[1:].split(steps), strict=True):
        with torch.set_grad_enabled(adapt_lr > 0):
            logits, state, *_ = model(x[:, None], state)
            losses = F.cross_entropy(logits[:, 0], y, reduction="none")
        found.append(losses.detach())
        if adapt_lr:
            state = detach(state)
            parameters = [*model.parameters()]
            gradients = torch.autograd.grad(losses.mean(), parameters)
            with torch.no_grad():
                for p, gradient, was in zip(parameters, gradients, begun.parameters(), strict=True):
                    p -= adapt_lr * gradient.clamp(-1, 1)
                    p.lerp_(was, pull)
    return torch.cat(found) / math.log(2)


# cell long0020 fda2b5 · Which unit keeps what
def text_features(text: str) -> dict[str, Tensor]:
    """Return numbers that describe each place of a text, after its character has been read.

    Quotations and brackets end with the paragraph at the latest. Shape: (n,) for each feature.
    """
    names = "place in the line", "place in the word", "in quotation marks", "in brackets"
    rows, line, word, quoted, depth = [], 0, 0, False, 0
    for place, character in enumerate(text):
        line = 0 if character == "\n" else line + 1
        word = word + 1 if character.isalpha() else 0
        if text[max(0, place - 1):place + 1] == "\n\n":
            quoted, depth = False, 0
        quoted ^= character == '"'
        depth = max(0, depth + (character == "(") - (character == ")"))
        rows.append((line, word, float(quoted), float(depth > 0)))
    return dict(zip(names, torch.tensor(rows).T, strict=True))


@torch.no_grad()
def read_states(model: RecurrentLM, x: Tensor) -> Tensor:
    """Return the state of every unit after every character; of an LSTM its cells.

    Shape: x (T, B) -> (T, B, layers · H).
    """
    state, found = None, []
    for now in x.split(1):
        state = model(now, state).state
        cells = [end[1] if isinstance(end, tuple) else end for end in state]  # (1, B, H) each
        found.append(torch.cat(cells, 2))
    return torch.cat(found)


def correlations(states: Tensor, feature: Tensor) -> Tensor:
    """Return the correlation of each unit with a feature: (N, U), (N,) -> (U,)."""
    states, feature = states - states.mean(0), feature - feature.mean()
    norms = states.square().sum(0) * feature.square().sum()
    return feature @ states / norms.clamp(min=1e-12).sqrt()


# cell long0022 223376 · Which unit keeps what
def best_units(states: Tensor, features: Mapping[str, Tensor]) -> dict[str, tuple[int, float]]:
    """Find, on the first half, the unit that follows each feature best; measure it on the second.

    Shape: states (N, U), features (N,) -> the number of the unit, and its correlation.
    """
    half, found = len(states) // 2, {}
    for name, feature in features.items():
        unit = int(correlations(states[:half], feature[:half]).abs().argmax())
        found[name] = unit, correlations(states[half:, [unit]], feature[half:]).item()
    return found


def readout(states: Tensor, feature: Tensor, penalty: float = 1000.0) -> Tensor:
    """Fit a weighted sum of all units to a feature, on the first half; return it for the whole.

    Shape: (N, U), (N,) -> (N,).
    """
    half = len(states) // 2
    x = (states - states[:half].mean(0)) / states[:half].std(0).clamp(min=1e-6)
    y = feature[:half] - feature[:half].mean()
    square = x[:half].T @ x[:half] + penalty * torch.eye(x.shape[1])
    return x @ torch.linalg.solve(square, x[:half].T @ y)
