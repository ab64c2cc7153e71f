"""10_makemore: contexts, gathered counts, splits, sampling, and sweeps by several processes."""

import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb00a import data_path
from exp.nb10 import (
    CharacterVocab,
    ContextMLP,
    count_loss,
    count_targets,
    counted_loaders,
    draw_characters,
    evaluating,
    generate_names,
    make_contexts,
    read_names,
    split_by_name,
    split_lines,
)
from exp.nb10a import run_sweep
from exp.nb10b import ContextTree, DeepContextMLP

quick = settings(max_examples=40, deadline=None)
texts = st.lists(st.text("abcde", min_size=1, max_size=6), min_size=1, max_size=8)
many_texts = st.lists(
    st.text("abcdefgh", min_size=1, max_size=6), min_size=6, max_size=20, unique=True
)
vocab = CharacterVocab(["abcde"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@given(texts, st.integers(1, 9))
@quick
def test_contexts_are_those_of_the_plain_loop(names, K):
    expected = []
    for name in names:
        context = [0] * K
        for number in [*vocab.encode(name), 0]:
            expected.append((context, number))
            context = context[1:] + [number]
    x, y = make_contexts(names, vocab, K)
    test_eq((x.tolist(), y.tolist()), tuple(map(list, zip(*expected, strict=True))))


@given(texts, st.integers(1, 20), st.integers(0, 1000))
@quick
def test_gathered_counts_give_the_same_loss_and_gradient(names, K, seed):
    x, y = make_contexts(names, vocab, K)
    distinct, counts = count_targets(x, y, len(vocab))
    test_eq(distinct, x.unique(dim=0))
    test_eq(counts.sum(), float(len(y)))
    table = torch.randn(len(distinct), len(vocab), dtype=torch.float64, generator=seeded(seed))
    place = {tuple(row): i for i, row in enumerate(distinct.tolist())}
    rows = torch.tensor([place[tuple(row)] for row in x.tolist()])
    results = []
    for loss_of in (lambda w: F.cross_entropy(w[rows], y), lambda w: count_loss(w, counts)):
        w = table.clone().requires_grad_()
        loss = loss_of(w)
        loss.backward()
        results.append((loss.detach(), w.grad))
    test_near(results[0], results[1], tol=1e-12)


def test_the_learner_sees_the_mean_over_all_examples():
    from exp.nb04 import Learner

    x, y = make_contexts(["abc", "abd", "eee"], vocab, 2)
    model = ContextMLP(len(vocab), 2, 4, 5)
    learn = Learner(model, counted_loaders((x, y), (x, y), len(vocab), 3), count_loss, 0.01)
    assert len(learn.dls.train) == 3
    test_near(learn.evaluate()["loss"], F.cross_entropy(model(x), y).item(), tol=1e-6)


@given(many_texts, st.integers(1, 3))
@quick
def test_splits_lose_nothing_and_by_name_shares_nothing(names, times):
    names = [name for i, name in enumerate(names) for _ in range(1 + times * (i % 2))]
    for split in (split_lines(names), split_by_name(names)):
        test_eq(sorted(split.train + split.dev + split.test), sorted(names))
    parts = [set(part) for part in (split.train, split.dev, split.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    test_eq(split_by_name(names).sha256, split_by_name(names[::-1]).sha256)


def test_split_hash_knows_order_and_parts():
    names = [f"n{i}" for i in range(50)]
    assert split_lines(names).sha256 != split_lines(names, seed=1).sha256
    assert split_lines(names).sha256 != split_lines(names[::-1]).sha256
    test_eq(split_lines(names).sha256, split_lines(list(names)).sha256)
    test_eq([len(split_lines(names).train), len(split_lines(names).dev)], [40, 5])


def test_split_by_lines_is_one_shuffle_under_the_seed():
    import random

    names = [f"n{i}" for i in range(1000)]
    shuffled = list(names)
    random.Random(42).shuffle(shuffled)
    split = split_lines(names)
    test_eq(split.train + split.dev + split.test, shuffled)
    test_eq([len(split.train), len(split.dev), len(split.test)], [800, 100, 100])


@pytest.mark.parametrize("names", [[], ["a"], list("abcde"), ["a"] * 9])
def test_splits_refuse_to_leave_a_part_empty(names):
    with pytest.raises(ValueError, match="at least 6 names"):
        split_by_name(names)


@given(st.text(min_size=1))
def test_characters_round_trip(text):
    running = CharacterVocab(text, end=None)
    test_eq(running.decode(running.encode(text)), text)
    test_eq(list(running.characters), sorted(set(text)))
    test_eq(running.decode(torch.tensor(running.encode(text))), text)


def test_vocabulary_and_files_complain(tmp_path):
    with pytest.raises(ValueError, match=r"\['y', 'z'\] were never seen"):
        vocab.encode("azy")
    for unknown in ("y", "", "ab"):
        with pytest.raises(ValueError, match="never seen"):
            vocab.encode("az", unknown=unknown)
    test_eq(vocab.encode("az", unknown="b"), vocab.encode("ab"))
    for number in (-1, 6):
        with pytest.raises(IndexError, match=r"0\.\.5"):
            vocab.decode([1, number])
    with pytest.raises(ValueError, match="no characters"):
        CharacterVocab([""], end=None)
    with pytest.raises(ValueError, match="marks the end"):
        CharacterVocab(["a|b"], end="|")
    (tmp_path / "names.txt").write_text("emma\n\nava\n")
    with pytest.raises(ValueError, match="empty line, number 2"):
        read_names(tmp_path)


def test_contexts_and_counts_refuse():
    for names, own in ((["a.b"], vocab), (["a"], CharacterVocab("ab", end=None))):
        with pytest.raises(ValueError, match="occurs in no name"):
            make_contexts(names, own, 2)
    x, y = make_contexts([], vocab, 2)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((0, 2), torch.int64, (0,), torch.int64)
    with pytest.raises(ValueError, match="0 examples"):
        count_targets(x, y, 6)
    x, y = make_contexts(["abe"], vocab, 2)
    for contexts, targets, n in ((x, y, 5), (x - 1, y, 6), (x, y + 6, 6)):
        with pytest.raises(ValueError, match=rf"in 0\.\.{n - 1}"):
            count_targets(contexts, targets, n)
    with pytest.raises(ValueError, match="the same shape"):
        count_loss(torch.zeros(3, 1), torch.ones(3, 6))


def test_parts_get_their_modes_back_even_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with pytest.raises(KeyError), evaluating(model):
        assert not any(part.training for part in model.modules())
        raise KeyError
    test_eq([part.training for part in model.modules()], [True, True, False])
    with evaluating(len):  # a function has no modes
        pass


def chi_square(counts, probabilities):
    """How far counts are from what was to be expected, in standard deviations of chance."""
    expected = probabilities.double() * counts.sum()
    assert expected.min() >= 5
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum().item() - freedom) / (2 * freedom) ** 0.5


class Fixed(nn.Module):
    """The same forecast whatever the context."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def test_samples_follow_the_probabilities_and_a_wrong_sampler_is_caught():
    logits = torch.randn(1, 27, generator=seeded(3))
    for temperature in (0.5, 1.0, 2.0):
        drawn = draw_characters(logits.expand(50_000, -1), temperature, seeded(4))[:, 0]
        counts = drawn.bincount(minlength=27)
        assert abs(chi_square(counts, F.softmax(logits[0] / temperature, 0))) < 4
        assert chi_square(counts, F.softmax(logits[0] / temperature / 1.1, 0)) > 8


@pytest.mark.parametrize("temperature", [-1, float("nan"), float("inf")])
def test_draws_refuse_temperatures(temperature):
    with pytest.raises(ValueError, match="at least 0 and finite"):
        draw_characters(torch.zeros(1, 3), temperature)


def test_whole_names_follow_the_model():
    torch.manual_seed(1)
    model = ContextMLP(len(vocab), 2, 4, 8)
    with torch.no_grad():
        model.output.weight.mul_(20)
    names = generate_names(model, vocab, 2, 20_000, max_length=4, generator=seeded(5))
    for context, followers in (
        ("..", [f"{name}."[0] for name in names]),
        (".a", [f"{name}."[1] for name in names if name[:1] == "a"]),
    ):
        counts = torch.tensor(vocab.encode("".join(followers))).bincount(minlength=len(vocab))
        with torch.no_grad():
            chances = F.softmax(model.eval()(torch.tensor([vocab.encode(context)])), 1)[0]
        assert counts.sum() > 500
        assert chi_square(counts, chances) < 4


def test_generation_ends_repeats_and_restores():
    model = DeepContextMLP(len(vocab), 3, 4, 8, dropout=0.5).train()
    model.hidden[1].eval()  # one part in another mode
    modes = [part.training for part in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    first = generate_names(model, vocab, 3, 6, "ab", generator=seeded(), max_length=9)
    test_eq(first, generate_names(model, vocab, 3, 6, "ab", generator=seeded(), max_length=9))
    test_eq([part.training for part in model.modules()], modes)
    test_eq(dict(model.state_dict()), state)
    assert all(name.startswith("ab") and len(name) <= 9 for name in first)
    assert len(set(generate_names(model, vocab, 3, 5, temperature=0, max_length=9))) == 1
    never = Fixed(torch.tensor([[-1e9, 1.0, 1, 1, 1, 1]]))
    assert all(len(name) == 7 for name in generate_names(never, vocab, 2, 4, max_length=7))
    at_once = Fixed(torch.tensor([[1e9, 1.0, 1, 1, 1, 1]]))
    test_eq(generate_names(at_once, vocab, 2, 3, "ab"), ["ab"] * 3)
    for temperature in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature"):
            generate_names(model, vocab, 3, temperature=temperature)
    with pytest.raises(ValueError, match="never seen"):
        generate_names(model, vocab, 3, prompt="xyz")
    with pytest.raises(ValueError, match="must not contain it"):
        generate_names(model, vocab, 3, prompt="a.b")
    test_eq([part.training for part in model.modules()], modes)


def test_tiny_temperatures_do_not_overflow():
    logits = torch.tensor([[3e4, -3e4, 0.0]])
    test_eq(draw_characters(logits, 1e-30, seeded()), torch.tensor([[0]]))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_models_start_without_an_opinion(norm, n_layers):
    torch.manual_seed(0)
    x = torch.randint(27, (500, 4), generator=seeded())
    y = torch.randint(27, (500,), generator=seeded(1))
    for model in (ContextMLP(27, 4), DeepContextMLP(27, 4, 16, 256, n_layers, 0.0, norm)):
        test_near(F.cross_entropy(model(x), y).item(), torch.tensor(27.0).log().item(), tol=0.02)
    linears = [layer for layer in model.hidden if isinstance(layer, nn.Linear)]
    assert len(linears) == n_layers
    assert all((layer.bias is None) == norm for layer in linears)  # batch norm has the bias


def test_a_tree_sees_each_letter_and_refuses_other_lengths():
    torch.manual_seed(0)
    tree = ContextTree(6, n_levels=3, embedding_size=4, hidden_size=5).eval()
    x = torch.ones(1, 8, dtype=torch.long)
    for place in range(8):
        changed = x.clone()
        changed[0, place] = 2
        assert (tree(changed) - tree(x)).abs().max() > 0
    with pytest.raises(ValueError, match="joins 8 characters"):
        tree(x[:, :4])


def test_a_tree_is_one_layer_on_pairs_then_on_pairs_of_pairs():
    torch.manual_seed(0)
    tree = ContextTree(6, n_levels=2, embedding_size=4, hidden_size=5, dropout=0.0).eval()
    x = torch.tensor([[1, 2, 3, 4]])
    a, b, c, d = tree.embedding(x)[0]
    low, high = tree.levels
    left, right = low(torch.cat([a, b])[None]), low(torch.cat([c, d])[None])
    test_near(tree(x).detach(), tree.output(high(torch.cat([left, right], 1))).detach(), tol=1e-6)


def test_names_of_the_data_are_as_they_should():
    names = read_names(data_path("names"))
    assert len(names) == 32_033 and len(CharacterVocab(names)) == 27


def parabola(trial):
    return (trial.suggest_float("x", -1, 1) - 0.3) ** 2


def test_a_sweep_goes_on_where_it_stopped(tmp_path):
    url = f"sqlite:///{tmp_path}/deep/down/sweeps.db"
    test_eq(len(run_sweep(parabola, 3, "one", url, seed=0).trials), 3)
    study = run_sweep(parabola, 7, "one", url, seed=1)
    test_eq(len(study.trials), 7)
    test_eq(len(run_sweep(parabola, 7, "one", url).trials), 7)
    test_eq(len(run_sweep(parabola, 2, "another", url).trials), 2)
    assert study.best_value == min(trial.value for trial in study.trials)

    def broken(trial):
        raise KeyError("the third one fails")

    with pytest.raises(KeyError, match="third"):
        run_sweep(broken, 9, "one", url)
    test_eq(len(run_sweep(parabola, 9, "one", url).trials), 9)  # the failed one is counted


WORKER = textwrap.dedent("""
    import sys, time
    import optuna
    from exp.nb10a import run_sweep
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial):
        trial.set_user_attr("worker", sys.argv[2])
        time.sleep(0.2)
        return trial.suggest_float("x", -1, 1) ** 2

    run_sweep(objective, 12, "shared", sys.argv[1])
""")


def test_several_processes_share_a_sweep(tmp_path):
    import optuna

    url = f"sqlite:///{tmp_path}/sweeps.db"
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, url, str(i)]) for i in range(3)]
    assert [worker.wait(timeout=180) for worker in workers] == [0, 0, 0]
    trials = optuna.load_study(study_name="shared", storage=url).trials
    assert 12 <= len(trials) <= 12 + len(workers) - 1
    assert len({trial.user_attrs["worker"] for trial in trials}) >= 2
    test_eq([trial.number for trial in trials], list(range(len(trials))))
    assert len({trial.params["x"] for trial in trials}) == len(trials)  # none is drawn twice


def test_a_killed_worker_does_not_stop_the_sweep(tmp_path):
    url = f"sqlite:///{tmp_path}/sweeps.db"
    die = "import os; trial.number == 2 and os.kill(os.getpid(), 9)"
    suicide = WORKER.replace("time.sleep(0.2)", die)
    died = subprocess.run([sys.executable, "-c", suicide, url, "0"], timeout=180)
    assert died.returncode == -9
    study = run_sweep(lambda trial: trial.suggest_float("x", -1, 1) ** 2, 12, "shared", url)
    assert sum(trial.value is not None for trial in study.trials) == 12
