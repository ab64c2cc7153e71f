"""Language models: reading in chunks, batches in order, regularisation, writing."""

import copy
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb03b import DataLoaders
from exp.nb04 import Callback, Learner
from exp.nb04c import load_weights, pack, save_weights, unpack
from exp.nb04d import Checkpoint
from exp.nb10 import CharacterVocab
from exp.nb11 import sequence_loss
from exp.nb11b import (
    CountLM,
    LockedDropout,
    RecurrentLM,
    StatefulTraining,
    TextBatches,
    TimeBudget,
    WindowLM,
    bits_per_character,
    detach,
    generate_text,
    language_learner,
    number_contexts,
    split_tail,
    text_bits,
)
from exp.nb11e import WeightDropLSTM

MODELS = {
    "window": lambda: WindowLM(9, window=4, embedding_size=5, hidden_size=6),
    "window of one": lambda: WindowLM(9, window=1, embedding_size=5, hidden_size=6),
    "rnn": lambda: RecurrentLM(9, 7, 2, nn.RNN),
    "gru": lambda: RecurrentLM(9, 7, 1, nn.GRU),
    "lstm": lambda: RecurrentLM(9, 7, 3, nn.LSTM),
    "awd": lambda: RecurrentLM(
        9, 7, 2, partial(WeightDropLSTM, weight_drop=0.5), True, 0.3, 0.3, 0.3
    ),
}
CODES = torch.randint(9, (500,), generator=torch.Generator().manual_seed(0))
READERS = {**MODELS, "counts": lambda: CountLM(CODES, 9, 3)}  # what reads and writes


def make(name):
    torch.manual_seed(1)
    return READERS[name]()


def learner(model, *callbacks, batches=None):
    train = batches or TextBatches(CODES, 4, 10)
    return Learner(
        model,
        DataLoaders(train, None),
        sequence_loss,
        0.1,
        callbacks=[StatefulTraining(), *callbacks],
    )


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_in_chunks_as_at_once(name, lengths):
    model = make(name).eval()
    x = CODES[: 3 * sum(lengths)].reshape(-1, 3)
    state, parts = None, []
    for chunk in x.split(lengths):
        reading = model(chunk, state)
        state = detach(reading.state)
        parts.append(reading.logits)
    test_near(torch.cat(parts), model(x).logits)


@given(n=st.integers(2, 300), batch_size=st.integers(1, 7), steps=st.integers(1, 40))
def test_batches_give_each_character_once(n, batch_size, steps):
    codes = torch.arange(n)
    if (n - 1) // batch_size == 0:
        with pytest.raises(ValueError, match="too few"):
            TextBatches(codes, batch_size, steps)
        return
    batches = list(TextBatches(codes, batch_size, steps))
    test_eq(len(batches), len(TextBatches(codes, batch_size, steps)))
    rows = torch.cat([x for x, _ in batches]).T
    test_eq(rows.flatten().tolist(), list(range(rows.numel())))
    assert n - 1 - rows.numel() < batch_size  # what is left out is less than one a row
    test_eq(torch.cat([y for _, y in batches]).T, rows + 1)


@given(seed=st.integers(0, 99), steps=st.integers(1, 20))
def test_shifted_batches_are_whole_and_in_order(seed, steps):
    batches = TextBatches(torch.arange(200), 3, steps, torch.Generator().manual_seed(seed))
    for _ in range(3):
        found = list(batches)
        test_eq(len(found), len(batches))
        rows = torch.cat([x for x, _ in found])
        test_eq((rows[1:] - rows[:-1]).unique().tolist(), [1])
        test_eq({tuple(x.shape) for x, _ in found}, {(steps, 3)})


def test_split_is_in_order():
    train, tail = split_tail(torch.arange(100), 0.1)
    test_eq((train.tolist(), tail.tolist()), (list(range(90)), list(range(90, 100))))
    for share in (0.0, 1.0, 2.0):
        with pytest.raises(ValueError, match="leaves one of the two parts empty"):
            split_tail(torch.arange(100), share)


@pytest.mark.parametrize("name", MODELS)
def test_scores_agree(name):
    model, batches = make(name), TextBatches(CODES, 4, 17)  # the last batch is shorter
    bits = text_bits(model, batches)
    assert model.training
    test_near(bits, bits_per_character(learner(model).evaluate(batches)["loss"]))
    with torch.no_grad():
        whole = sequence_loss(model.eval()(batches.x).logits, batches.y)
    test_near(bits, whole.item() / math.log(2))


def test_training_hands_the_state_on_and_cuts_the_gradient():
    seen = []

    class Spy(RecurrentLM):
        def forward(self, x, state=None):
            seen.append(state)
            return super().forward(x, state)

    learn = learner(Spy(9, 7, 1))
    learn.fit(2)
    n = len(learn.dls.train)
    test_eq([i for i, state in enumerate(seen) if state is None], [0, n])
    assert all(not s.requires_grad for state in seen if state for s in state[0])
    learn.evaluate(TextBatches(CODES, 2, 10))  # other rows, in between: no state mixed up
    assert seen[2 * n] is None


def test_the_state_is_saved_with_the_callback():
    learn = learner(make("lstm"))
    learn.fit(1)
    callback = learn.callback(StatefulTraining)
    restored = StatefulTraining()
    restored.load_state_dict(unpack(*pack(callback.state_dict())))
    test_eq(restored.state_dict(), callback.state_dict())


class Stop(Callback):
    """Interrupt a training after some steps."""

    only_watches = True

    def after_batch(self, learn):
        if learn.n_steps == 15:
            raise KeyboardInterrupt


def test_a_stateful_training_that_was_broken_off_goes_on_to_the_same_bits(tmp_path):
    def resumable(folder, *callbacks):
        batches = TextBatches(CODES, 4, 10, torch.Generator().manual_seed(2))
        return learner(
            make("awd"), Checkpoint(tmp_path / folder, every=2), *callbacks, batches=batches
        )

    undisturbed = resumable("whole")
    undisturbed.fit(2)
    with pytest.raises(KeyboardInterrupt):
        resumable("broken", Stop()).fit(2)
    again = resumable("broken")
    again.fit(2)
    test_eq(again.recorder.losses, undisturbed.recorder.losses)
    test_eq(dict(again.model.state_dict()), dict(undisturbed.model.state_dict()))


def test_tied_weights_are_saved_and_loaded(tmp_path):
    model, other = make("awd"), RecurrentLM(9, 7, 2, tie_weights=True)
    save_weights(model, tmp_path / "weights")
    load_weights(other, tmp_path / "weights")
    test_eq(dict(other.state_dict()), dict(model.state_dict()))
    assert other.out.weight is other.embedding.weight


def test_tied_weights_survive():
    model = RecurrentLM(9, 7, tie_weights=True)
    for other in (model.to(torch.float64), copy.deepcopy(model)):
        assert other.out.weight is other.embedding.weight
    fresh = RecurrentLM(9, 7, tie_weights=True).double()
    fresh.load_state_dict(model.state_dict())
    assert fresh.out.weight is fresh.embedding.weight
    before = model.embedding.weight.detach().clone()
    learner(model, batches=TextBatches(CODES, 4, 10)).fit(1)
    test_eq(model.out.weight, model.embedding.weight)
    assert not torch.equal(before, model.embedding.weight)


def test_locked_dropout():
    torch.manual_seed(0)
    out = LockedDropout(0.99)(torch.ones(5, 40, 50))
    test_eq(out, out[:1].expand_as(out))
    test_near((out == 0).double().mean(), 0.99, tol=0.01)


@pytest.mark.parametrize("name", ["window", "rnn", "lstm", "awd"])
def test_a_batch_with_other_rows_is_refused_with_what_to_do(name):
    batches = [(torch.zeros(5, n, dtype=torch.long),) * 2 for n in (4, 4, 3)]
    with pytest.raises(ValueError, match="had 4 rows; this batch has shape .*drop_last=True"):
        learner(make(name), batches=batches).fit(1)
    ends_early = [(torch.zeros(steps, 4, dtype=torch.long),) * 2 for steps in (5, 5, 3)]
    learner(make(name), batches=ends_early).fit(1)


def test_the_loss_of_an_epoch_counts_characters():
    batches = [(torch.zeros(steps, 4, dtype=torch.long),) * 2 for steps in (9, 9, 1)]
    learn = learner(make("gru"), batches=batches)
    wanted = text_bits(learn.model, batches)
    test_near(bits_per_character(learn.evaluate(batches)["loss"]), wanted, tol=1e-6)


def test_a_language_model_in_a_dozen_lines(capsys):
    code = """
import torch
from exp import (CharacterVocab, DataLoaders, Learner, RecurrentLM, StatefulTraining, TextBatches,
                 fit_one_cycle, generate_text, sequence_loss, split_tail)

text = "the cat sat on the mat. " * 100
vocab = CharacterVocab(text, end=None)
train, tail = split_tail(torch.tensor(vocab.encode(text)))
dls = DataLoaders(TextBatches(train, 8, 20), TextBatches(tail, 8, 20))
learn = Learner(RecurrentLM(len(vocab), 32, 1), dls, sequence_loss, 0.05, torch.optim.AdamW,
                callbacks=StatefulTraining())
fit_one_cycle(learn, 5)
print(generate_text(learn.model, vocab, "the ", temperature=0))
"""
    torch.manual_seed(0)
    exec(code, {})
    assert "cat sat on the mat. the cat sat on the mat." in capsys.readouterr().out


def test_time_budget_counts_training_only():
    ticks = iter(range(10_000))
    budget = TimeBudget(20.0, 0.5, clock=lambda: float(next(ticks)))  # a batch takes one second
    learn = learner(make("gru"), budget)
    learn.fit(1000)
    test_eq(budget.spent, [float(i + 1) for i in range(20)])
    rates = [rates[0] for rates in learn.recorder.lrs]
    test_eq(rates.index(max(rates)), 2)  # after the first tenth
    test_near((max(rates), rates[0]), (0.5, 0.05))
    assert len(learn.recorder.losses) == 20 and rates[-1] < 0.05
    learn.fit(1000)  # the whole budget again
    assert len(budget.spent) == 20
    with pytest.raises(ValueError, match="greater than 0"):
        TimeBudget(0.0, 0.1)


def test_other_batches_and_texts_are_refused():
    with pytest.raises(TypeError, match="number the characters"):
        TextBatches("a text", 2, 3)
    batches = [{"x": torch.zeros(2, 3, dtype=torch.long)}]
    with pytest.raises(TypeError, match="got a dict with"):
        learner(nn.Linear(3, 3), batches=batches).fit(1)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        RecurrentLM(9, 7, 0)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        WindowLM(9, 0)


ALPHABET = CharacterVocab("abcdefghi", end=None)


def read(text):
    return torch.tensor(ALPHABET.encode(text))[:, None]


@pytest.mark.parametrize("name", READERS)
def test_writing(name):
    model, fed = make(name), []
    model.register_forward_hook(lambda module, inputs, output: fed.append(inputs[0]))
    made = generate_text(model, ALPHABET, "abc", 20, generator=torch.Generator().manual_seed(3))
    assert made.startswith("abc") and len(made) == 23 and model.training
    test_eq(ALPHABET.decode(torch.cat(fed)[:, 0]), made[:-1])  # each character once, in order
    again = generate_text(model, ALPHABET, "abc", 20, generator=torch.Generator().manual_seed(3))
    other = generate_text(model, ALPHABET, "abc", 20, generator=torch.Generator().manual_seed(4))
    assert again == made != other


@pytest.mark.parametrize("name", READERS)
def test_greedy_is_the_likeliest_given_all(name):
    model = make(name).eval()
    made = generate_text(model, ALPHABET, "ab", 15, temperature=0)
    for end in range(2, len(made)):
        logits = model(read(made[:end])).logits[-1, 0]
        test_eq(ALPHABET.decode([logits.argmax()]), made[end])


def test_writing_refuses():
    model = make("gru")
    with pytest.raises(ValueError, match=r"\['z'\] were never seen"):
        generate_text(model, ALPHABET, "abz", 5)
    assert generate_text(model, ALPHABET, "abz", 5, unknown="c").startswith("abc")
    for options in ({"prompt": ""}, {"temperature": -1.0}, {"temperature": math.inf}, {"n": -1}):
        with pytest.raises(ValueError, match="generate_text needs"):
            generate_text(model, ALPHABET, **{"prompt": "a", **options})
    assert model.training


class Next(nn.Module):
    """The next letter of the alphabet, for sure; a model without a single tensor."""

    def forward(self, x, state=None):
        return nn.functional.one_hot((x + 1) % 9, 9).double() * 1e9, state


@pytest.mark.parametrize("temperature", [0, 0.5, 1])
def test_a_model_without_weights_writes(temperature):
    test_eq(generate_text(Next(), ALPHABET, "ab", 8, temperature), "abcdefghia")


def test_modes_are_kept_after_an_error():
    class Broken(Next):
        def forward(self, x, state=None):
            raise KeyError("broken")

    model = Broken().train()
    for run in (
        lambda: generate_text(model, ALPHABET, "a"),
        lambda: text_bits(model, TextBatches(CODES, 4, 10)),
    ):
        with pytest.raises(KeyError):
            run()
        assert model.training


def test_a_resumed_fit_has_what_was_left_of_its_budget(tmp_path):
    from small_learner import learner

    class Stop(Callback):
        only_watches = True

        order = 20_000

        def after_batch(self, learn):
            if learn.n_steps == 13:
                raise ZeroDivisionError("crash")

    def script(folder, *callbacks):
        clock = iter(range(10**6)).__next__  # a batch takes one second
        learn = learner(
            [Checkpoint(tmp_path / folder, every=1), TimeBudget(30, 0.1, clock), *callbacks]
        )
        learn.fit(100)
        return learn

    whole = script("a")
    with pytest.raises(ZeroDivisionError):
        script("b", Stop())
    again = script("b")
    assert again.n_steps == whole.n_steps == 30
    assert again.recorder.lrs == whole.recorder.lrs
    assert torch.equal(again.model[0].weight, whole.model[0].weight)


def forecast(codes, context, character, n_characters, discount):
    """The formula of Kneser and Ney, with lists."""
    p = 1 / n_characters
    for k in range(len(context) + 1):
        end = tuple(context[len(context) - k :])
        pieces = [tuple(codes[i : i + k + 2]) for i in range(len(codes) - k - 1)]
        followed = [piece[-1] for piece in {*pieces} if piece[1:-1] == end]
        if k == len(context):
            whole = [tuple(codes[i : i + k + 1]) for i in range(len(codes) - k)]
            followed = [piece[-1] for piece in whole if piece[:-1] == end]
        if n := len(followed):
            kept = max(followed.count(character) - discount, 0)
            p = (kept + discount * len({*followed}) * p) / n
    return p


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), order=st.integers(0, 4), discount=st.sampled_from([0.5, 0.9]))
def test_counts_follow_the_formula(seed, order, discount):
    codes = torch.randint(4, (60,), generator=torch.Generator().manual_seed(seed))
    model = CountLM(codes, 4, order, discount)
    x = torch.randint(4, (order + 3, 1), generator=torch.Generator().manual_seed(seed + 1))
    p = model(x).logits[-1, 0].exp()
    test_near(p.sum(), 1.0)
    context = x[len(x) - order :, 0].tolist()
    expected = [forecast(codes.tolist(), context, c, 4, discount) for c in range(4)]
    test_near(p, torch.tensor(expected), tol=1e-5)


def test_counts_refuse_what_they_cannot_number():
    test_eq(number_contexts(torch.tensor([3, 1, 4]), 2, 10).tolist(), [31, 14])
    for options in ({"order": 40}, {"order": -1}, {"discount": 0.0}, {"discount": 1.5}):
        with pytest.raises(ValueError, match="CountLM needs"):
            CountLM(CODES, 9, **options)


def test_the_learner_of_the_page_trains_in_rows():
    torch.manual_seed(0)
    learn = language_learner(CODES, RecurrentLM(9, 7, 1), 4, 10, 0.01)
    learn.fit(1)
    assert learn.callback(StatefulTraining) and len(learn.recorder.losses) == 11
