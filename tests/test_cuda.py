"""What exp exports, on a GPU: the values and gradients that it has on the CPU."""

import copy

import pytest
import torch
from small_learner import learner
from torch import nn

from exp import nb03, nb05c, nb06, nb06b, nb10, nb10b, nb11, nb11a, nb11b, nb11e
from exp.nb00 import test_eq, test_near
from exp.nb03b import DataLoaders
from exp.nb04 import Learner, map_tensors
from exp.nb04b import DeviceCallback
from exp.nb04d import Checkpoint, load_learner, save_learner
from exp.nb05 import fit_one_cycle
from exp.nb05b import lr_find
from exp.nb10 import CharacterVocab

pytestmark = pytest.mark.cuda


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def integers(n, *shape):
    return torch.randint(n, shape, generator=torch.Generator().manual_seed(3))


def answers(function, inputs):
    """Give all outputs, then the gradients of their squares in inputs and parameters."""
    inputs, outputs = [x.detach().clone() for x in inputs], []
    parameters = function.parameters() if isinstance(function, nn.Module) else ()
    sources = [*(x.requires_grad_() for x in inputs if x.is_floating_point()), *parameters]
    map_tensors(outputs.append, function(*inputs))
    outputs = [x for x in outputs if x.is_floating_point()]
    gradients = torch.autograd.grad(
        sum(x.square().sum() for x in outputs), sources, allow_unused=True
    )
    return [*outputs, *(g for g in gradients if g is not None)]


def same_on_both(function, inputs):
    on_gpu = copy.deepcopy(function).cuda() if isinstance(function, nn.Module) else function
    here, there = answers(function, inputs), answers(on_gpu, [x.cuda() for x in inputs])
    assert {x.device.type for x in there} == {"cuda"} and len(here) == len(there) > 1
    test_near([x.cpu() for x in there], here, tol=1e-7)
    if isinstance(function, nn.Module):  # statistics of batches, too
        test_near(on_gpu.cpu().state_dict(), function.state_dict(), tol=1e-7)


IMAGES = draw(4, 3, 9, 8)
TEXT = integers(7, 5, 3)
MODULES = {
    "Conv2d": (lambda: nb06.Conv2d(3, 4, 3, stride=2, padding=1), IMAGES),
    "groups": (lambda: nb06.Conv2d(3, 6, 3, groups=3, dilation=2), IMAGES),
    "BatchNorm": (lambda: nb06b.BatchNorm(3), IMAGES),
    "LayerNorm": (lambda: nb06b.LayerNorm(8), IMAGES),
    "GroupNorm": (lambda: nb06b.GroupNorm(3, 3), IMAGES),
    "resnet18": (lambda: nb06b.resnet18(5), draw(2, 3, 32, 32)),
    "RNN": (lambda: nb11.RNN(3, 4, num_layers=2), draw(5, 2, 3)),
    "GRU": (lambda: nb11a.GRU(3, 4, bidirectional=True), draw(5, 2, 3)),
    "LSTM": (lambda: nb11a.LSTM(3, 4, num_layers=2), draw(5, 2, 3)),
    "WeightDropLSTM": (lambda: nb11e.WeightDropLSTM(3, 4), draw(5, 2, 3)),
    "WindowLM": (lambda: nb11b.WindowLM(7, window=3, hidden_size=8), TEXT),
    "RecurrentLM": (lambda: nb11b.RecurrentLM(7, 8, tie_weights=True), TEXT),
    "ContextMLP": (lambda: nb10.ContextMLP(7, 3), TEXT),
    "DeepContextMLP": (lambda: nb10b.DeepContextMLP(7, 3, dropout=0.0), TEXT),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    make, x = MODULES[name]
    torch.manual_seed(0)
    same_on_both(make().double(), [x])


COUNTS = integers(4, 6, 5).double()
FUNCTIONS = {
    "log_softmax": (nb03.log_softmax, [draw(6, 5)]),
    "cross_entropy": (
        lambda x, y: nb03.cross_entropy(x, y, ignore_index=2),
        [draw(6, 5), integers(5, 6)],
    ),
    "conv2d": (nb06.conv2d, [IMAGES, draw(2, 3, 3, 3), draw(2)]),
    "max_pool2d": (lambda x: nb06.max_pool2d(x, 2), [IMAGES]),
    "avg_pool2d": (lambda x: nb06.avg_pool2d(x, 2), [IMAGES]),
    "adaptive_avg_pool2d": (lambda x: nb06.adaptive_avg_pool2d(x, (2, 3)), [IMAGES]),
    "sequence_loss": (nb11.sequence_loss, [draw(5, 3, 7), TEXT]),
    "count_loss": (nb10.count_loss, [draw(6, 5), COUNTS]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    same_on_both(*FUNCTIONS[name])


OPTIMIZERS = [nb03.SGD, nb05c.RMSprop, nb05c.Adam, nb05c.AdamW, nb05c.LAMB]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_optimizers(make):
    results = []
    for device in ("cpu", "cuda"):
        p, b = (nn.Parameter(draw(*shape).to(device)) for shape in ((4, 3), (4,)))
        opt = make([p, b], lr=0.1, weight_decay=0.01)
        for _ in range(10):
            (p.square().sum() + (p.sum(1) * b).sin().sum()).backward()
            opt.step()
            opt.zero_grad()
        results.append([p.detach().cpu(), b.detach().cpu()])
        opt.load_state_dict(opt.state_dict())
    test_near(*results, tol=1e-9)


def test_the_finder_leaves_no_trace_and_training_goes_on():
    torch.manual_seed(1)
    learn, undisturbed = (learner([DeviceCallback("cuda")]) for _ in range(2))
    sweep = lr_find(learn, num_steps=20)
    assert sweep.losses and next(learn.model.parameters()).device.type == "cpu"  # as it was
    for one in (learn, undisturbed):
        torch.manual_seed(2)
        fit_one_cycle(one, 2, 0.1)
    test_near(*(list(one.model.state_dict().values()) for one in (learn, undisturbed)), tol=1e-5)


def test_looking_inside():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(168, 2))
    here, x = copy.deepcopy(model), IMAGES.float()
    model.cuda()
    with nb06.ActivationStats(model) as stats, nb06.ActivationStats(here) as expected:
        for _ in range(2):
            model(x.cuda())
            here(x)
    test_near(stats.numbers("1"), expected.numbers("1"), tol=1e-2)  # convolutions of 19 bits
    assert stats.histogram("1").device.type == "cpu"
    test_eq(nb06b.summary(model, x.cuda()), nb06b.summary(here, x))
    found, wanted = nb06.lsuv(model, x.cuda()), nb06.lsuv(here, x)
    test_near(found, wanted, tol=1e-2)
    nb06.plot_activation_stats(stats)
    nb06.plot_activation_histograms(stats)


def language_learner(*callbacks):
    torch.manual_seed(0)
    model = nb11b.RecurrentLM(7, 8, layer=nb11e.WeightDropLSTM, dropout_in=0.1)
    batches = nb11b.TextBatches(integers(7, 300), 4, 10)
    parts = [
        DeviceCallback("cuda"),
        nb11b.StatefulTraining(),
        nb11e.ActivationPenalty(0.1, 0.1),
        *callbacks,
    ]
    return Learner(
        model,
        DataLoaders(batches, batches),
        nb11.sequence_loss,
        1e-2,
        torch.optim.Adam,
        callbacks=parts,
    )


def test_a_language_model_trains_and_writes(tmp_path):
    learn = language_learner(Checkpoint(tmp_path / "run", every=3))
    learn.fit(2)
    bits = nb11b.text_bits(learn.model, learn.dls.valid)  # the batches lie on the CPU
    test_near(bits, nb11b.text_bits(learn.model.cpu(), learn.dls.valid), tol=1e-4)
    learn.model.cuda()
    texts = [
        nb11b.generate_text(learn.model, CharacterVocab("abcdefg"), "abc", 20, generator=g)
        for g in (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1))
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 23
    other = language_learner(Checkpoint(tmp_path / "other"))
    save_learner(learn, tmp_path / "file")
    load_learner(other, tmp_path / "file")
    test_eq(*([p.cpu() for p in one.model.parameters()] for one in (other, learn)))


def test_names_are_written_by_a_model_on_the_gpu():
    names = ["ada", "bob", "cleo", "dan"]
    vocab = CharacterVocab(names)
    torch.manual_seed(0)
    model = nb10.ContextMLP(len(vocab), 3)
    loaders = nb10.counted_loaders(*[nb10.make_contexts(names, vocab, 3)] * 2, len(vocab))
    learn = Learner(model, loaders, nb10.count_loss, 0.1, callbacks=[DeviceCallback("cuda")])
    learn.fit(1)
    words = nb10.generate_names(model, vocab, 3, n=4, temperature=0)
    assert words == nb10.generate_names(model.cpu(), vocab, 3, n=4, temperature=0)
