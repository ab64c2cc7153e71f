"""Neural translation: padding, directions, attention, decoding, BLEU, forcing, regularisation."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb03b import DataLoaders
from exp.nb04 import Learner
from exp.nb07d import WordVectors
from exp.nb11d import BOS, EOS, PAD, UNK, masked_loss
from exp.nb12 import (
    Attention,
    DecoderPenalty,
    GRUEncoder,
    GRUTranslator,
    TeacherForcing,
    bleu,
    draw_attention,
    fill_embedding,
    forced_attention,
    greedy_decode,
    last_words,
    length_limits,
    reverse_sentences,
    weights_thinned,
)

few = settings(max_examples=25, deadline=None)
sentences = st.lists(st.lists(st.integers(4, 19), min_size=0, max_size=6), min_size=1, max_size=4)
kinds = st.fixed_dictionaries(
    {
        "num_layers": st.integers(1, 3),
        "bidirectional": st.sampled_from(["none", "first", "all"]),
        "attention": st.sampled_from(["none", "tanh", "relu", "product"]),
        "tie_weights": st.booleans(),
    }
)


def padded(rows, more=0):
    """Stack rows, each with EOS, and pad them."""
    longest = max(map(len, rows)) + 1 + more
    return torch.tensor([[*row, EOS, *[PAD] * (longest - len(row) - 1)] for row in rows])


def make(seed=0, **options):
    torch.manual_seed(seed)
    return GRUTranslator(20, 20, 6, source_size=4, target_size=5, **options).double()


@few
@given(sentences, st.integers(0, 9), st.integers(0, 9), kinds)
def test_padding_changes_nothing(rows, more_source, more_target, kind):
    model = make(**kind)

    def everything(a, b):
        source, target_out = padded(rows, a), padded(rows[::-1], b)
        target_in = torch.cat([torch.full((len(rows), 1), BOS), target_out[:, :-1]], 1)
        loss = masked_loss(model(source, target_in), target_out)
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        found = [loss.detach(), *(g for g in gradients if g is not None)]
        if kind["attention"] != "none":
            weights = forced_attention(model, source, target_in)
            S, T = source.shape[1] - a, target_in.shape[1] - b
            assert not weights[:, :, S:].any()
            found.append(weights[:, :T, :S])
        return found, greedy_decode(model, source)

    plain, more = everything(0, 0), everything(more_source, more_target)
    test_near(more[0], plain[0], tol=1e-9)
    test_eq(more[1], plain[1])


@few
@given(sentences, kinds)
def test_a_batch_is_its_sentences_one_by_one(rows, kind):
    model, source = make(**kind), padded(rows)
    together = greedy_decode(model, source)
    for row, line in zip(source, together, strict=True):
        alone = greedy_decode(model, row[None])[0]
        test_eq(line[: len(alone)], alone)
        assert not line[len(alone) :].any()


@few
@given(sentences, st.integers(1, 8))
def test_greedy_ends_at_eos_or_its_limit(rows, limit):
    model, source = make(attention="tanh"), padded(rows)
    for line in greedy_decode(model, source, limit):
        words = line[line != PAD]
        assert 1 <= len(words) <= limit
        assert (words[:-1] != EOS).all() and not torch.isin(words, torch.tensor([UNK, BOS])).any()
        assert words[-1] == EOS or len(words) == limit


def test_greedy_is_the_likeliest_word_each_time():
    model, source = make(attention="relu", num_layers=2).eval(), padded([[5, 6, 7]])
    line, written = greedy_decode(model, source)[0], [BOS]
    for word in line[line != PAD].tolist():
        scores = model(source, torch.tensor([written]))[0, -1].detach()
        scores[[PAD, UNK, BOS]] = -torch.inf
        assert scores.argmax() == word
        written.append(word)


def test_greedy_without_sentences_and_with_bad_limits():
    model, source = make(), padded([[5], [6, 7]])
    assert greedy_decode(model, source[:0]).shape == (0, 0)
    with pytest.raises(ValueError, match="at least 1"):
        greedy_decode(model, source, torch.tensor([3, 0]))
    test_eq(length_limits(source), torch.tensor([9, 11]))
    model.train()
    greedy_decode(model, source)
    assert model.training  # the mode is kept


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_reversing_twice_is_nothing(lengths):
    x = torch.randn(len(lengths), 6, 2)
    lengths = torch.tensor(lengths)
    once = reverse_sentences(x, lengths)
    test_eq(reverse_sentences(once, lengths), x)
    test_eq(once[:, 0], last_words(x, lengths))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_encoder_equals_bidirectional_gru(layers):
    encoder = GRUEncoder(20, 4, 3, layers, "all").double()
    theirs = nn.GRU(4, 3, layers, bidirectional=True, batch_first=True).double()
    for n, pair in enumerate(zip(encoder.forwards, encoder.backwards, strict=True)):
        for gru, suffix in zip(pair, ("", "_reverse"), strict=True):
            for name, w in gru.named_parameters():
                getattr(theirs, name.replace("_l0", f"_l{n}{suffix}")).data.copy_(w)
    source = padded([[5, 6, 7], [8, 9, 10]])
    outputs, state, real = encoder(source)
    wanted, ends = theirs(encoder.embedding(source))
    test_near(outputs[:, :, :6], wanted)
    test_near(outputs[:, :, 6:], encoder.embedding(source))
    for n, bridge in enumerate(encoder.bridges):
        joined = torch.cat([ends[2 * n], ends[2 * n + 1]], 1)  # of this layer, both directions
        test_near(state[:, n], bridge(joined).tanh())
    assert real.all()


def test_only_the_first_layer_reads_both_ways():
    assert len(GRUEncoder(20, 4, 3, 3, "first").backwards) == 1
    assert len(GRUEncoder(20, 4, 3, 3, "all").backwards) == 3
    with pytest.raises(ValueError, match="none, first or all"):
        GRUEncoder(20, 4, 3, bidirectional="both")
    with pytest.raises(ValueError, match="at least one token"):
        GRUEncoder(20, 4, 3)(torch.tensor([[PAD, PAD]]))


def test_attention_is_a_weighted_mean_over_real_words():
    attention = Attention(3, 4, 5)
    query, values = torch.randn(2, 3, 3), torch.randn(2, 6, 4)
    real = torch.arange(6) < torch.tensor([[6], [2]])
    context, weights = attention(query, attention.project(values), values, real)
    test_near(weights.sum(2), torch.ones(2, 3))
    assert not weights[1, :, 2:].any()
    test_near(context, torch.einsum("bts,bsd->btd", weights, values))
    with pytest.raises(ValueError, match="relu or product"):
        Attention(3, 4, 5, "gelu")
    with pytest.raises(TypeError, match="no attention"):
        forced_attention(make(), padded([[5]]), torch.tensor([[BOS]]))


@pytest.mark.parametrize("layers", [1, 3])
def test_reading_true_words_in_a_loop_is_one_call(layers):
    model = make(num_layers=layers, attention="tanh", bidirectional="all")
    source, target_in = padded([[5, 6], [7]]), torch.tensor([[BOS, 8, 9], [BOS, 10, PAD]])
    at_once = model(source, target_in)
    model.forcing = 1 - 1e-12
    test_near(model(source, target_in), at_once)
    model.forcing = 0.0  # now only the first word of the target is read
    test_eq(
        model(source, target_in),
        model(source, target_in.clone().index_fill_(1, torch.tensor([1, 2]), 11)),
    )
    test_near(model.eval()(source, target_in), at_once)  # evaluation reads the true words


@pytest.mark.parametrize("place", ["dropout_in", "dropout_between", "dropout_out", "weight_drop"])
@pytest.mark.parametrize("forcing", [1.0, 0.5])
def test_dropout_acts_in_training_only(place, forcing):
    model = make(num_layers=2, attention="tanh", forcing=forcing, **{place: 0.9})
    batch = padded([[5, 6, 7]]), torch.tensor([[BOS, 8, 9]])
    quiet = model.eval()(*batch)
    test_eq(quiet, model(*batch))
    torch.manual_seed(1)
    assert not torch.equal(model.train()(*batch), quiet)


def test_dropout_masks_stay_for_a_sentence():
    model = make(dropout_in=0.5, dropout_out=0.5)
    state = model.start(model.encode(padded([[5], [6]])))
    assert state["mask_in"].shape == (2, 1, 5)
    _, after, _ = model.step(torch.tensor([BOS, BOS]), state, {})
    assert after["mask_in"] is state["mask_in"] and after["mask_out"] is state["mask_out"]
    assert set(model.eval().start(model.encode(padded([[5]])))) == {"hidden"}


def test_thinned_weights_come_back_after_an_error():
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ZeroDivisionError), weights_thinned(model, 0.5):
        assert any(
            0 in w for gru in model.modules() if isinstance(gru, nn.GRU) for w in gru._flat_weights
        )
        raise ZeroDivisionError
    test_eq(model.state_dict(), before)
    assert model.decoder.layers[0]._flat_weights[1] is model.decoder.layers[0].weight_hh_l0


def test_tied_weights_stay_one_parameter():
    model = make(tie_weights=True).to("cpu", torch.float32)
    assert model.decoder.out.weight is model.decoder.embedding.weight
    other = make(1, tie_weights=True).float()
    other.load_state_dict(model.state_dict())
    assert other.decoder.out.weight is other.decoder.embedding.weight


def learner(model, callbacks, n=10):
    batch = (
        padded([[5, 6], [7]]),
        torch.tensor([[BOS, 8, 9], [BOS, 10, PAD]]),
        torch.tensor([[8, 9, EOS], [10, EOS, PAD]]),
    )
    return Learner(
        model,
        DataLoaders([batch] * n, None),
        masked_loss,
        0.01,
        callbacks=callbacks,
        progress=False,
    )


def test_teacher_forcing_falls_and_is_put_back():
    model, seen = make(), []
    model.decoder.register_forward_hook(lambda *_: seen.append(model.forcing))
    learner(model, TeacherForcing(lambda position: 1 - position)).fit(1)
    assert seen[0] == 1.0 and seen[-1] == 0.0 and len(set(seen)) > 5
    assert model.forcing == 1.0
    learn = learner(model, TeacherForcing(lambda position: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    assert model.forcing == 1.0
    with pytest.raises(TypeError, match="forcing"):
        learner(nn.Linear(2, 2), TeacherForcing()).fit(1)


@pytest.mark.parametrize("forcing", [1.0, 0.0])
def test_penalty_counts_real_words_only(forcing):
    model = make(forcing=forcing, dropout_out=0.3)
    penalty = DecoderPenalty(2.0, 3.0)
    losses, plain = [], []

    class Look(DecoderPenalty):
        def after_loss(self, learn):
            plain.append(learn.loss.item())
            raw, dropped = (torch.cat(parts, 1) for parts in zip(*model.decoder.kept, strict=True))
            real = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
            ar = torch.stack([dropped[place] for place in real]).square().mean()
            steps = [raw[b, t + 1] - raw[b, t] for b, t in ((0, 0), (0, 1), (1, 0))]
            tar = torch.stack(steps).square().mean()
            penalty.after_loss(learn)
            losses.append(learn.loss.item())
            test_near(learn.loss - plain[-1], 2 * ar + 3 * tar)

    learner(model, Look(), 1).fit(1)
    assert losses and model.decoder.kept is None


def test_embedding_takes_vectors_at_its_own_spread():
    table = nn.Embedding(5, 3)
    before = table.weight.detach().clone()
    vectors = WordVectors(("a", "b", "c"), 100 + 50 * torch.randn(3, 3))
    test_eq(fill_embedding(table, ["A", "b", "?", "c", "!"], vectors), ["?", "!"])
    test_eq(table.weight[[2, 4]], before[[2, 4]])
    rows = table.weight.detach()[[0, 1, 3]]
    test_near(rows.mean(), before.mean())
    test_near(rows.std(), before.std())
    flat = torch.stack([rows.flatten(), vectors.vectors.flatten()])
    test_near(torch.corrcoef(flat)[0, 1], 1.0)
    with pytest.raises(ValueError, match="need an embedding"):
        fill_embedding(table, ["a"], vectors)


def test_bleu_with_several_references():
    test_near(bleu(["Where is my car now?"], [["Where is my car now?"]]), 100.0)
    both = [["Who is Tom here?", "Who is this Tom?"], ["What is that over there?"]]
    written = ["Who is this Tom?", "What is that over there?"]
    test_near(bleu(written, both), 100.0)
    assert bleu(["Who?", *written], [["Why did you go?"], *both]) < 100
    for hypotheses, references in (([], []), (["a"], []), (["a"], ["a"]), (["a"], [[]])):
        with pytest.raises(ValueError):
            bleu(hypotheses, references)


def test_attention_is_drawn():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure, axis = pyplot.subplots()
    draw_attention(axis, ["où", "?"], ["where", "is", "?"], torch.eye(3)[:, :2], {(0, 0), (1, 2)})
    assert len(axis.lines) == 6 + 2 and [t.get_text() for t in axis.texts][:2] == ["où", "?"]
    pyplot.close(figure)
