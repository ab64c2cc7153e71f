"""A language model, character by character

By the end you will have language models that read a text in order without losing their place, a table that compares them with plain counting after the same training time, in bits per character, and pages of new text that they wrote.
"""

# cell 0922d374 a6284e · A language model, character by character
from __future__ import annotations

# generated from nbs/11b_language_model.ipynb: do not edit · 4f5070
__all__ = [
    "bits_per_character",
    "split_tail",
    "Reading",
    "number_contexts",
    "CountLM",
    "text_bits",
    "generate_text",
    "TextBatches",
    "WindowLM",
    "LockedDropout",
    "RecurrentLM",
    "detach",
    "StatefulTraining",
    "TimeBudget",
    "language_learner",
]
__dir__ = __all__.copy  # what completion offers

# cell 0922d374 f8b9df · A language model, character by character
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb03b import DataLoaders
from exp.nb03d import evaluating, gather_objects, map_tensors
from exp.nb03f import Callback, CancelFit
from exp.nb04 import Learner
from exp.nb04b import DeviceCallback, GradientClip, model_device, to_device
from exp.nb05 import CombinedSchedule, CosineSchedule, set_hyperparameter
from exp.nb10 import CharacterVocab, draw_characters
from exp.nb11 import sequence_loss


# cell 33975c85 c682e3 · Bits, on what comes later
def bits_per_character(loss: float | Tensor) -> float:
    """Convert a loss per character from nats to bits."""
    return float(loss) / math.log(2)


def split_tail(codes: Tensor, share: float = 0.1) -> tuple[Tensor, Tensor]:
    """Split a text into its beginning and its last `share`, to test on what comes later.

    Raises: ValueError if either part would be empty.
    """
    cut = len(codes) - round(len(codes) * share)
    if not 0 < cut < len(codes):
        raise ValueError(f"share={share} of {len(codes)} characters leaves one of the two parts "
                         "empty; both parts need at least one character")
    return codes[:cut], codes[cut:]


# cell 55f29a1c 927d5e · Bits, on what comes later
class Reading(NamedTuple):
    """What a language model returns: scores for the next character, and the state to continue from.

    Shape: logits (T, B, V); raw and dropped (T, B, H), the last layer's output before and after
        dropout, or None for models without such a layer.
    """

    logits: Tensor
    state: Any
    raw: Tensor | None = None
    dropped: Tensor | None = None


# cell text0004 a5b75c · Counting first
def number_contexts(codes: Tensor, k: int, n_characters: int) -> Tensor:
    """Write each k characters in a row as the digits of one number.

    Shape: codes (n, …) -> (n - k + 1, …).
    """
    powers = n_characters ** torch.arange(k - 1, -1, -1, device=codes.device)
    return (codes.unfold(0, k, 1) * powers).sum(-1)


# cell text0006 f6b1d3 · Counting first
class CountLM(nn.Module):
    """Score the next character by what followed the last characters in a text.

    Contexts of `order` characters are counted, and shorter ones where those say little.
    Shape: x (T, B) -> logits (T, B, V), logarithms of probabilities. The text is preceded by
        character 0.
    Raises: ValueError for a discount outside (0, 1], and for contexts too long for 64 bits.
    Source: Kneser and Ney 1995; Chen and Goodman 1999, equation 23, here with one discount.
    """

    def __init__(self, codes: Tensor, n_characters: int, order: int = 6, discount: float = 0.9):
        super().__init__()
        if not 0 < discount <= 1 or order < 0 or n_characters ** (order + 1) >= 2 ** 62:
            raise ValueError(f"CountLM needs 0 < discount <= 1, order >= 0, and n_characters ** "
                             f"(order + 1) below 2 ** 62, got discount={discount}, order={order}, "
                             f"n_characters={n_characters}")
        self.n_characters, self.order, self.discount = n_characters, order, discount
        for k in range(order + 1):
            if k < order:  # each kind of longer piece counts once
                grams = number_contexts(codes, k + 2, n_characters).unique()
                grams = grams % n_characters ** (k + 1)
            else:
                grams = number_contexts(codes, k + 1, n_characters)
            pairs, counts = grams.unique(return_counts=True)  # context · V + the next character
            self.register_buffer(f"pairs{k}", pairs)
            self.register_buffer(f"counts{k}", counts.double())

    def followers(self, contexts: Tensor, k: int) -> Tensor:
        """Return how often each character followed each context: (N,) -> (N, V)."""
        pairs, V = self.get_buffer(f"pairs{k}"), self.n_characters
        first, end = torch.searchsorted(pairs, torch.stack([contexts * V, contexts * V + V]))
        n = end - first
        row = torch.arange(len(n), device=n.device).repeat_interleave(n)
        place = torch.arange(len(row), device=n.device) + (end - n.cumsum(0))[row]
        table = torch.zeros(len(n), V, dtype=torch.float64, device=n.device)
        table[row, pairs[place] % V] = self.get_buffer(f"counts{k}")[place]
        return table

    def forward(self, x: Tensor, state: Tensor | None = None) -> Reading:
        """Continue from the characters in `state`, (order, B)."""
        before = x.new_zeros(self.order, x.shape[1]) if state is None else state
        known = torch.cat([before, x])  # (order + T, B)
        p = torch.full((x.numel(), 1), 1 / self.n_characters, dtype=torch.float64, device=x.device)
        for k in range(self.order + 1):
            contexts = number_contexts(known, k, self.n_characters)[self.order - k + 1:]
            table = self.followers(contexts.flatten(), k)  # (T·B, V)
            total, kinds = table.sum(1, keepdim=True), (table > 0).sum(1, keepdim=True)
            share = torch.where(total > 0, self.discount * kinds / total.clamp(min=1), 1.0)
            found = table.sub_(self.discount).clamp_(min=0).div_(total.clamp(min=1))
            p = found.addcmul_(share, p)
        return Reading(p.log().float().unflatten(0, x.shape), known[len(known) - self.order:])


# cell b0180ab0 7c6fd0 · Counting first
@torch.no_grad()
def text_bits(model: nn.Module, batches: TextBatches) -> float:
    """Return the mean bits per character of a text that is read in order, with the state handed on.

    The model is in evaluation mode; afterwards each part of it is in the mode it was in.
    """
    state, total, n, device = None, 0.0, 0, model_device(model)
    with evaluating(model):
        for batch in batches:
            x, y = to_device(batch, device)
            logits, state, *_ = model(x, state)
            total += F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item()
            n += y.numel()
    return bits_per_character(total / n)


# cell 989b53be 4ce3e5 · Writing
@torch.no_grad()
def generate_text(model: nn.Module, vocab: CharacterVocab, prompt: str, n: int = 200,
                  temperature: float = 1.0, unknown: str | None = None,
                  generator: torch.Generator | None = None) -> str:
    """Read the prompt, then draw `n` characters, each of which is the next input; return all.

    At `temperature` 0 the likeliest is taken; a `generator` on the CPU makes the text repeatable;
    `unknown` replaces characters of the prompt that `vocab` lacks. The model's modes are kept.
    Raises: ValueError for an empty prompt, an unknown character without a replacement, or a
        negative temperature.
    """
    if not prompt or n < 0 or not 0 <= temperature < math.inf:
        raise ValueError("generate_text needs a prompt of at least one character, n >= 0 and a "
                         f"finite temperature >= 0, got {prompt!r}, {n} and {temperature}")
    read, state = torch.tensor(vocab.encode(prompt, unknown))[:, None], None  # (T, 1)
    written, device = [read], model_device(model)
    with evaluating(model):
        for _ in range(n):
            logits, state, *_ = model(read.to(device), state)
            read = draw_characters(logits[-1].cpu(), temperature, generator)  # (1, 1)
            written.append(read)
    return vocab.decode(torch.cat(written)[:, 0])


# cell d79a145a b9f4a0 · Rows that continue from batch to batch
class TextBatches:
    """Batches of a text in which each row continues where it stopped in the batch before.

    Yields pairs (x, y) of shape (steps, batch_size); y holds the characters that follow x. With a
    generator, each pass starts at a random one of the first `steps` places, so that the borders
    between batches move, and characters left over at the end are not read.
    Raises: ValueError if the text is too short for a single batch; TypeError unless it is a tensor.
    """

    def __init__(self, codes: Tensor, batch_size: int, steps: int,
                 generator: torch.Generator | None = None):
        if not isinstance(codes, Tensor):
            raise TypeError(f"codes must be a tensor of the numbers of characters, got a "
                            f"{type(codes).__name__}; number the characters of a text first")
        self.batch_size, self.steps, self.generator = batch_size, steps, generator
        n = (len(codes) - 1) // batch_size  # characters in a row
        if min(batch_size, steps) < 1 or n < 1 or (generator and n < 2 * steps - 1):
            raise ValueError(f"{len(codes)} characters are too few for batch_size={batch_size} and "
                             f"steps={steps}, which must both be at least 1")
        self.x = codes[:n * batch_size].reshape(batch_size, n).T       # (n, B)
        self.y = codes[1:n * batch_size + 1].reshape(batch_size, n).T  # (n, B)

    def __len__(self) -> int:
        n = len(self.x)
        return (n - self.steps + 1) // self.steps if self.generator else -(-n // self.steps)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first = 0
        if self.generator:
            first = torch.randint(self.steps, (), generator=self.generator).item()
        for start in range(first, first + len(self) * self.steps, self.steps):
            yield self.x[start:start + self.steps], self.y[start:start + self.steps]


# cell ee276721 3b19b3 · Networks with the same interface
class WindowLM(nn.Module):
    """Score the next character from the last `window` ones, with one hidden layer.

    Shape: x (T, B) -> logits (T, B, V). The text is preceded by character 0.
    Raises: ValueError for a window below 1.
    Source: Bengio and others 2003.
    """

    def __init__(self, n_characters: int, window: int = 8, embedding_size: int = 24,
                 hidden_size: int = 256):
        super().__init__()
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.window = window
        self.embedding = nn.Embedding(n_characters, embedding_size)
        self.hidden = nn.Linear(window * embedding_size, hidden_size)
        self.out = nn.Linear(hidden_size, n_characters)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Reading:
        """Continue from the characters in `state`, (window - 1, B)."""
        before = x.new_zeros(self.window - 1, x.shape[1]) if state is None else state
        known = torch.cat([before, x])                           # (K - 1 + T, B)
        e = self.embedding(known).unfold(0, self.window, 1)      # (T, B, E, K)
        logits = self.out(self.hidden(e.flatten(2)).tanh())      # (T, B, V)
        return Reading(logits, known[len(known) - self.window + 1:])


# cell ac5d06bc 1e8a43 · Networks with the same interface
class LockedDropout(nn.Module):
    """Dropout with one mask for all time steps of a batch, and a new mask for each batch.

    Shape: (T, B, H) -> (T, B, H).
    Source: Gal and Ghahramani 2016, section 4.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must satisfy 0 <= p < 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop the same units at every step, and divide the others by 1 - p."""
        if not self.training or self.p == 0:
            return x
        return x * x.new_empty(1, *x.shape[1:]).bernoulli_(1 - self.p) / (1 - self.p)


# cell 5e50200d fc0aca · Networks with the same interface
class RecurrentLM(nn.Module):
    """Score the next character after each step, with a state that remembers what was read.

    `layer` makes a recurrent layer from two sizes, as torch.nn.GRU does. `dropout_in` acts on the
    embedding, `dropout_between` between layers, `dropout_out` on the last layer; all are locked.
    Shape: x (T, B) -> logits (T, B, V).
    Raises: ValueError for fewer than one layer.
    Source: Merity and others 2018; Press and Wolf 2017 for the tied weights.
    """

    def __init__(self, n_characters: int, hidden_size: int = 256, num_layers: int = 2,
                 layer: Callable[[int, int], nn.Module] = nn.LSTM, tie_weights: bool = False,
                 dropout_in: float = 0.0, dropout_between: float = 0.0, dropout_out: float = 0.0):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.embedding = nn.Embedding(n_characters, hidden_size)
        self.layers = nn.ModuleList(layer(hidden_size, hidden_size) for _ in range(num_layers))
        self.out = nn.Linear(hidden_size, n_characters)
        self.dropout_in, self.dropout_out = LockedDropout(dropout_in), LockedDropout(dropout_out)
        self.dropout_between = LockedDropout(dropout_between)
        if tie_weights:
            self.out.weight = self.embedding.weight  # one Parameter with two names
            with torch.no_grad():
                self.out.weight.uniform_(-0.1, 0.1)  # an embedding's 1.0 would make huge logits

    def forward(self, x: Tensor, state: tuple[Any, ...] | None = None) -> Reading:
        """Continue from `state`, which holds the state of each layer."""
        states, ends = state or (None,) * len(self.layers), []
        h = self.dropout_in(self.embedding(x))  # (T, B, H)
        for number, (layer, start) in enumerate(zip(self.layers, states, strict=True)):
            h, end = layer(self.dropout_between(h) if number else h, start)  # (T, B, H)
            ends.append(end)
        dropped = self.dropout_out(h)
        return Reading(self.out(dropped), tuple(ends), h, dropped)


# cell f5f62ed8 9581e8 · In chunks as at once
def detach(state: Any) -> Any:
    """Detach all tensors of a state: the same numbers, without a gradient through them."""
    return map_tensors(Tensor.detach, state)


# cell 7406bd65 3159d4 · Training with a state
class StatefulTraining(Callback):
    """Pass a model its own state from the batch before, detached.

    The model takes (x, state) and returns a `Reading`; loss and metrics get its logits. `reading`
    is the last one. A pass over the data starts without a state.
    Raises: ValueError, in a fit, for a batch with another number of rows than the one before.
    """

    order: ClassVar[int] = 5
    evaluates: ClassVar[bool] = True

    def __init__(self) -> None:
        self.reading: Reading | None = None
        self._states: dict[bool, Any] = {}  # one for training, one for looking in between

    def before_batch(self, learn: Learner) -> None:
        if learn.batch_index == 0:
            self._states.pop(learn.training, None)
        if isinstance(learn.inputs, Mapping):
            raise TypeError("StatefulTraining needs batches (x, target) of tensors, since it adds "
                            f"the state behind x; got a dict with {list(learn.inputs)}")
        state = self._states.get(learn.training)
        _check_rows(learn.inputs[0], state)
        learn.inputs = [*learn.inputs, state]

    def after_pred(self, learn: Learner) -> None:
        self.reading = learn.pred
        learn.pred = self.reading.logits
        self._states[learn.training] = detach(self.reading.state)

    def cleanup_fit(self, learn: Learner) -> None:
        self.reading = None

    def state_dict(self) -> dict[str, Any]:
        return {"state": self._states.get(True)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._states = {True: detach(state["state"])}


def _check_rows(x: Tensor, state: Any) -> None:
    """Refuse a batch whose rows cannot continue those of the state, (…, B, …)."""
    while isinstance(state, list | tuple) and state:
        state = state[0]
    if isinstance(state, Tensor) and state.ndim > 1 and state.shape[1] not in x.shape[:2]:
        raise ValueError(f"each row must continue the same row of the batch before, which had "
                         f"{state.shape[1]} rows; this batch has shape {tuple(x.shape)}. Leave out "
                         "a shorter last batch (drop_last=True), or use TextBatches")


# cell cdc555d9 1258ba · Training with a state
class TimeBudget(Callback):
    """End the fit after some seconds of training, with one cycle of the learning rate over them.

    The rate rises over the first tenth and then falls, along cosines. `spent` holds the seconds so
    far, after each batch. With `clock=time.process_time` only the work of this process counts (of
    all its threads), however busy the machine is.
    Units: seconds. Validation does not count. Each fit has the whole budget, a resumed fit what was
        left of it.
    Raises: ValueError unless seconds is above 0.
    """

    order: ClassVar[int] = 100

    def __init__(self, seconds: float, max_lr: float,
                 clock: Callable[[], float] = time.perf_counter):
        if not seconds > 0:
            raise ValueError(f"seconds must be greater than 0, got {seconds}")
        self.seconds, self.clock, self.spent = seconds, clock, []
        self.schedule = CombinedSchedule([0.1, 0.9], [CosineSchedule(max_lr / 10, max_lr),
                                                      CosineSchedule(max_lr, max_lr / 1000)])

    def before_fit(self, learn: Learner) -> None:
        self.spent = []

    def before_batch(self, learn: Learner) -> None:
        if learn.training:
            self._start = self.clock()
            so_far = self.spent[-1] if self.spent else 0.0
            for group in learn.opt.param_groups:
                set_hyperparameter(group, "lr", self.schedule(min(1.0, so_far / self.seconds)))

    def after_batch(self, learn: Learner) -> None:
        if learn.training:
            so_far = self.spent[-1] if self.spent else 0.0
            spent = so_far + self.clock() - self._start
            self.spent.append(max(gather_objects(spent)))  # of the slowest of several processes
            if self.spent[-1] >= self.seconds:
                raise CancelFit

    def state_dict(self) -> dict[str, Any]:
        return {"spent": torch.tensor(self.spent, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.spent = state["spent"].tolist()


# cell a63e66d0 f814d8 · Training with a state
def language_learner(codes: Tensor, model: nn.Module, batch_size: int, steps: int, lr: float,
                     callbacks: Iterable[Callback] = (), weight_decay: float = 0.01) -> Learner:
    """Make a Learner that reads a text in rows, with a state, AdamW and clipped gradients."""
    train = TextBatches(codes, batch_size, steps, torch.Generator().manual_seed(1))
    opt_func = partial(torch.optim.AdamW, betas=(0.9, 0.99), weight_decay=weight_decay)
    return Learner(model, DataLoaders(train, None), sequence_loss, lr, opt_func,
                   callbacks=[DeviceCallback(), StatefulTraining(), GradientClip(1.0), *callbacks],
                   progress=False)
