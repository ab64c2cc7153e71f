"""Cases for two processes, each with its own expectation; started by test_distributed.py.

    RANK=0 WORLD_SIZE=2 … python tests/distributed_cases.py OUT

Each process writes OUT/rankR.json: what each case found, or the error that it ended with.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DistributedSampler
from torchmetrics.classification import MulticlassAccuracy

from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb03c import accuracy
from exp.nb03e import EpochMetric, MeanMetric
from exp.nb03f import Callback, CancelFit
from exp.nb03j import ConfusionMatrix, F1Score
from exp.nb04 import Learner
from exp.nb04b import GradientAccumulation, StopOnNaN
from exp.nb06c import DistributedCallback, process_group, shared_loaders

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def data(n=40, seed=0):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x.argmax(1))


def learner(model, *callbacks, dls=None, batch_size=20, **options):
    options = {"lr": 0.1, "metrics": [accuracy], **options}
    return Learner(
        model,
        dls or shared_loaders(data(), data(), batch_size),
        F.cross_entropy,
        callbacks=[DistributedCallback(), *callbacks],
        **options,
    )


def weights(model):
    return [p.detach().double().sum().item() for p in model.parameters()]


class Experts(nn.Module):
    """Two experts of one size: in training each process uses another one."""

    def __init__(self, choose):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(2))
        self.choose = choose

    def forward(self, x):
        return self.experts[self.choose if self.training else 0](x)


@case
def experts(rank):
    """The gradient of each expert is the mean over all items, half of which it never saw."""
    torch.manual_seed(0)
    model, (x, y) = Experts(rank), data(39).tensors
    start = [e.weight.detach().clone().requires_grad_() for e in model.experts]
    learner(model, dls=DataLoaders([(x[rank::2], y[rank::2])], None)).fit(1)
    found = []
    for r, (expert, weight) in enumerate(zip(model.experts, start, strict=True)):
        loss = F.cross_entropy(x[r::2] @ weight.T, y[r::2], reduction="sum") / 39
        [gradient] = torch.autograd.grad(loss, weight)
        found.append((expert.weight - (weight - 0.1 * gradient)).abs().max().item())
    return {"difference": max(found), "weights": weights(model)}


@case
def one_expert_for_all(rank):
    """A parameter that no process uses has no gradient, and is not even decayed."""
    torch.manual_seed(0)
    model = Experts(1)
    before = model.experts[0].weight.detach().clone()
    learner(model, opt_func=lambda params, lr: torch.optim.SGD(params, lr, weight_decay=0.1)).fit(1)
    return {"same": torch.equal(before, model.experts[0].weight), "weights": weights(model)}


@case
def parameters_in_another_order(rank):
    parts = [nn.Linear(3, 3), nn.Linear(3, 3)]
    model = nn.Sequential(*parts)
    learn = learner(model)
    if rank == 1:
        learn.opt = torch.optim.SGD([*parts[1].parameters(), *parts[0].parameters()], lr=0.1)
    learn.fit(1)


@case
def another_number_of_batches(rank):
    x, y = data(12 + 4 * rank).tensors
    batches = list(zip(x.split(4), y.split(4), strict=True))
    learner(nn.Linear(3, 3), dls=DataLoaders(batches, None)).fit(1)


@case
def loaders_that_are_not_shared(rank):
    train = shared_loaders(data(), data(), 20).train
    dls = DataLoaders(train, DataLoader(data(), 10))
    learner(nn.Linear(3, 3), dls=dls).fit(1)


@case
def nothing_joins_the_processes(rank):
    """Refused without a callback that joins them, but not without shares."""
    dls, model = shared_loaders(data(), data(), 20), nn.Linear(3, 3)
    Learner(model, DataLoaders.from_datasets(data(), None), F.cross_entropy, 0.1).fit(1)
    Learner(nn.parallel.DistributedDataParallel(model), dls, F.cross_entropy, 0.1).fit(1)
    Learner(model, dls, F.cross_entropy, 0.1).fit(1)


class LeaveAlone(Callback):
    """End the fit on one process."""

    def __init__(self, rank):
        self.rank = rank

    def after_loss(self, learn):
        if self.rank == 1 and learn.training and learn.batch_index == 1:
            raise CancelFit


@case
def one_process_cancels(rank):
    learner(nn.Linear(3, 3), LeaveAlone(rank)).fit(2)
    return {"left": True}


@case
def all_stop_when_one_loss_is_nan(rank):
    """StopOnNaN decides for all, before any weight is NaN."""
    x, y = data(40).tensors
    batches = list(zip(x[rank::2].clone().split(5), y[rank::2].split(5), strict=True))
    if rank == 1:
        batches[2][0].fill_(float("nan"))
    model = nn.Linear(3, 3)
    learn = learner(model, StopOnNaN(), dls=DataLoaders(batches, None))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        learn.fit(1)
    return {"steps": learn.n_steps, "weights": weights(model), "said": str(said[0].message)}


class EndTogether(Callback):
    def before_epoch(self, learn):
        if learn.training and learn.epoch == 1:
            raise CancelFit


@case
def all_end_together(rank):
    model = nn.Linear(3, 3)
    learn = learner(model, EndTogether())
    learn.fit(3)
    alone = learn.predict(data().tensors[0]).sum().item() if rank == 0 else None
    return {"epochs": len(learn.recorder.epochs), "weights": weights(model), "alone": alone}


class SeeStatistics(Callback):
    """The statistics that each process validates with."""

    def __init__(self):
        self.seen = []

    def before_batch(self, learn):
        if not learn.training and learn.batch_index == 0:
            self.seen.append(learn.model[0].running_mean.tolist())


@case
def all_validate_the_same_model(rank):
    see, model = SeeStatistics(), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))
    learner(model, see).fit(2)
    return {"statistics": see.seen, "weights": weights(model)}


class See(Callback):
    def __init__(self):
        self.seen = []

    def before_batch(self, learn):
        self.seen.append(learn.inputs[0][:, 0].tolist())


@case
def torchs_own_sampler(rank):
    """A DistributedSampler is told the epoch, so that each has an order of its own."""
    x, y = data(40).tensors
    rows = TensorDataset(torch.cat([torch.arange(40.0)[:, None], x[:, 1:]], 1), y)
    see, model = See(), nn.Linear(3, 3)
    loader = DataLoader(rows, 10, sampler=DistributedSampler(rows))
    learner(model, see, dls=DataLoaders(loader, None), lr=1e-4).fit(2)
    return {"epochs": [sum(see.seen[:2], []), sum(see.seen[2:], [])], "weights": weights(model)}


def halves(dataset, rank, size=10):
    """The share of a process in each batch, and the whole batches: uneven at the end."""
    whole = list(zip(*(t.split(size) for t in dataset.tensors), strict=True))
    share = [tuple(t[rank::2] for t in batch) for batch in whole]
    return DataLoaders(share, share), DataLoaders(whole, whole)


def weighted_and_padded(rank, *callbacks):
    """Train on shares and on whole batches, and return how far apart weights and figures are."""
    x, y = data(47).tensors
    y = y.where(torch.rand(47, generator=torch.Generator().manual_seed(2)) < 0.6, -100)
    loss_func = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]))
    found = []
    for dls, more in zip(
        halves(TensorDataset(x, y), rank), ([DistributedCallback()], []), strict=True
    ):
        torch.manual_seed(0)
        learn = Learner(nn.Linear(3, 3), dls, loss_func, 0.5, callbacks=[*more, *callbacks])
        learn.fit(2)
        found.append(
            [
                *(p.detach().clone() for p in learn.model.parameters()),
                torch.tensor(list(learn.recorder.epochs[-1].values())),
            ]
        )
    apart = max((a - b).abs().max().item() for a, b in zip(*found, strict=True))
    return {"difference": apart, "sum": [t.double().sum().item() for t in found[0]]}


@case
def losses_that_divide_by_something_else(rank):
    """Class weights and padding: the weights and figures of one process with the whole batches."""
    return weighted_and_padded(rank)


@case
def accumulated_losses_that_divide_by_something_else(rank):
    return weighted_and_padded(rank, GradientAccumulation(2))


@case
def a_share_of_nothing_but_padding(rank):
    x, y = data(4).tensors
    y[0::2] = -100  # the share of process 0
    model = nn.Linear(3, 3)
    learner(model, dls=DataLoaders([(x[rank::2], y[rank::2])], None)).fit(1)
    return {
        "finite": all(p.isfinite().all().item() for p in model.parameters()),
        "weights": weights(model),
    }


def scores():
    """Metrics that are no means of batches, one of TorchMetrics among them."""
    return {
        "table": ConfusionMatrix(3),
        "f1": F1Score(3),
        "mean": MeanMetric(accuracy),
        "whole": EpochMetric(lambda pred, target: (pred.argmax(1) == target).double().std()),
        "theirs": MulticlassAccuracy(3),
    }


@case
def metrics_that_are_no_means(rank):
    share, whole = halves(data(47), rank)
    found = []
    for dls, callbacks in ((share, [DistributedCallback()]), (whole, [])):
        torch.manual_seed(0)
        learn = Learner(
            nn.Linear(3, 3), dls, F.cross_entropy, metrics=scores(), callbacks=callbacks
        )
        found.append(
            {
                name: torch.as_tensor(value).double().tolist()
                for name, value in learn.evaluate().items()
            }
        )
    return found


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with process_group() as (rank, _):
        results = {}
        for name, function in CASES.items():
            torch.manual_seed(rank)
            try:
                results[name] = function(rank)
            except Exception as error:
                results[name] = f"{type(error).__name__}: {error}"
            torch.distributed.barrier()
        (out / f"rank{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
