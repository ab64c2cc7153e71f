"""Attention and the Transformer: PyTorch's values and gradients, padding, order, cache, tying."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_near
from exp.nb03e import divisor_of
from exp.nb12b import (
    MultiheadAttention,
    Transformer,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
    attention_weights,
    scaled_dot_product_attention,
    sinusoidal_positions,
    smoothed_sequence_loss,
)

SIZES = st.integers(1, 5)


def gradients(output, wanted):
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return torch.autograd.grad((output * weights).sum(), wanted)


def small(**options):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "nhead": 4, "dim_feedforward": 24, "dropout": 0.0}
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    return Transformer(20, options.pop("n_target", 20), **sizes | layers | options).eval()


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(SIZES, SIZES, SIZES, SIZES), kind=st.sampled_from("none bool float".split()),
       causal=st.booleans(), seed=st.integers(0, 1000))  # fmt: skip
def test_attention_equals_torch(shape, kind, causal, seed):
    B, T, S, d = shape
    torch.manual_seed(seed)
    parts = [torch.randn(B, 2, n, d, dtype=torch.float64).requires_grad_() for n in (T, S, S)]
    mask = {"none": None, "bool": torch.rand(B, 1, T, S) < 0.5,
            "float": torch.randn(T, S, dtype=torch.float64)}[kind]  # fmt: skip
    causal = causal and mask is None  # torch takes one of the two
    found = [
        attend(*parts, mask, is_causal=causal)
        for attend in (scaled_dot_product_attention, F.scaled_dot_product_attention)
    ]
    test_near(*found, tol=1e-9)
    test_near(*(gradients(output, parts) for output in found), tol=1e-9)


def test_a_query_that_sees_nothing_gets_zeros_and_no_gradient():
    q, k, v = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[True] * 3, [False] * 3, [True] * 3])
    output = scaled_dot_product_attention(q, k, v, mask)
    assert (output[:, 1] == 0).all()
    assert all(g.isfinite().all() for g in gradients(output, [q, k, v]))
    assert (gradients(scaled_dot_product_attention(q, k, v, mask), [q])[0][:, 1] == 0).all()


def test_masks_of_both_kinds_may_be_combined_with_causal():
    q = torch.randn(1, 5, 4)
    mask = torch.tensor([[True, True, False, True, True]])
    shares = attention_weights(q, q, mask, is_causal=True)
    assert (shares.triu(1) == 0).all()
    assert (shares[..., 2] == 0).all()
    test_near(shares.sum(-1), torch.ones(1, 5))


@settings(max_examples=15, deadline=None)
@given(heads=st.sampled_from([1, 2, 4]), bias=st.booleans(), padded=st.booleans(),
       blocked=st.sampled_from(["none", "bool", "float"]), seed=st.integers(0, 100))  # fmt: skip
def test_heads_equal_torch(heads, bias, padded, blocked, seed):
    torch.manual_seed(seed)
    ours = MultiheadAttention(8, heads, bias=bias).double()
    theirs = nn.MultiheadAttention(8, heads, bias=bias, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    query, key, value = (torch.randn(2, n, 8, dtype=torch.float64) for n in (3, 5, 5))
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    masks = {
        "none": None,
        "bool": torch.ones(3, 5, dtype=torch.bool).triu(2),
        "float": torch.randn(3, 5, dtype=torch.float64),
    }
    options = {"attn_mask": masks[blocked]}
    if padded:
        same_kind = padding if blocked != "float" else padding.double() * -1e30
        options["key_padding_mask"] = padding
    found = ours(query, key, value, **options)
    if padded:
        options["key_padding_mask"] = same_kind
    expected = theirs(query, key, value, **options)
    test_near(found, expected, tol=1e-9)
    names = [name for name, _ in ours.named_parameters()]
    assert names == [name for name, _ in theirs.named_parameters()]
    test_near(gradients(found[0], list(ours.parameters())),
              gradients(expected[0], list(theirs.parameters())), tol=1e-8)  # fmt: skip


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("kind", [TransformerEncoderLayer, TransformerDecoderLayer])
def test_dropout_acts_in_training_only(kind, norm_first):
    torch.manual_seed(0)
    layer = kind(8, 2, 16, dropout=0.99, norm_first=norm_first)
    inputs = [torch.randn(2, 4, 8), torch.randn(2, 5, 8)][: layer._get_name().count("De") + 1]
    assert not torch.allclose(layer(*inputs), layer(*inputs))
    layer.eval()
    test_near(layer(*inputs), layer(*inputs))
    for p in (layer.dropout, layer.dropout1, layer.dropout2):
        assert p.p == 0.99
    assert layer.self_attn.dropout == 0.99


@settings(max_examples=15, deadline=None)
@given(B=st.integers(1, 3), S=st.integers(1, 6), T=st.integers(1, 6), more=st.integers(0, 5),
       norm_first=st.booleans(), seed=st.integers(0, 100))  # fmt: skip
def test_padding_changes_nothing_and_steps_agree(B, S, T, more, norm_first, seed):
    model = small(norm_first=norm_first)
    torch.manual_seed(seed)
    source, target = torch.randint(4, 20, (B, S)), torch.randint(4, 20, (B, T))
    scores = model(source, target)
    wide = F.pad(source, (0, more))
    test_near(model(wide, F.pad(target, (0, more)))[:, :T], scores, tol=1e-4)
    memory = model.encode(wide)
    state = model.start(memory)
    assert all(part.shape[0] == B for pair in memory["source"] for part in pair)
    for t in range(T):
        logits, state, seen = model.step(target[:, t], state, memory)
        test_near(logits, scores[:, t], tol=1e-4)
        test_near(seen.sum(1), torch.ones(B))
        assert (seen[:, S:] == 0).all()
    assert all(part.shape[2] == T for pair in state for part in pair)


def test_later_words_change_nothing_before_them():
    model = small()
    source, target = torch.randint(4, 20, (2, 5)), torch.randint(4, 20, (2, 6))
    other = target.clone()
    other[:, 4:] = torch.randint(4, 20, (2, 2))
    test_near(model(source, target)[:, :4], model(source, other)[:, :4], tol=1e-5)


def test_rows_of_a_state_can_be_chosen():
    """Beam search takes rows of memory and state: the scores go with them."""
    model, rows = small(), torch.tensor([1, 1, 0])
    source, tokens = torch.randint(4, 20, (2, 5)), torch.randint(4, 20, (2, 3))
    memory = model.encode(source)
    _, state, _ = model.step(tokens[:, 0], model.start(memory), memory)
    chosen = tuple(tuple(part[rows] for part in pair) for pair in state)
    more = {
        "padding": memory["padding"][rows],
        "source": tuple(tuple(part[rows] for part in pair) for pair in memory["source"]),
    }
    test_near(model.step(tokens[rows, 1], chosen, more)[0],
              model.step(tokens[:, 1], state, memory)[0][rows], tol=1e-5)  # fmt: skip


@pytest.mark.parametrize("tied, shared", list(itertools.product((False, True), repeat=2)))
def test_tying_survives_copies_moves_and_files(tied, shared, tmp_path):
    model = small(tie_weights=tied, share_vocab=shared)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = small(tie_weights=tied, share_vocab=shared)
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt"))
    for one in (model, copy.deepcopy(model), copy.deepcopy(model).to(torch.float64), loaded):
        assert (one.out.weight is one.target_embedding.weight) is tied
        assert (one.source_embedding.weight is one.target_embedding.weight) is shared
        before = one.target_embedding.weight.detach().clone()
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        one(torch.tensor([[5, 6]]), torch.tensor([[2, 7]])).logsumexp(2).sum().backward()
        optimizer.step()
        assert not torch.equal(before, one.target_embedding.weight)
    assert torch.equal(loaded.out.weight, model.out.weight) or not tied


def test_without_positions_a_sentence_is_a_bag():
    attend, x, order = MultiheadAttention(8, 2), torch.randn(1, 5, 8), torch.tensor([3, 0, 4, 1, 2])
    test_near(attend(x, x, x)[0][:, order], attend(*[x[:, order]] * 3)[0])


def test_positions_depend_on_the_distance_only():
    places = sinusoidal_positions(50, 16)
    products = places @ places.T
    for distance in (1, 5, 20):
        test_near(
            products.diagonal(distance), products[0, distance].expand(50 - distance), tol=1e-4
        )
    assert places.unique(dim=0).shape == places.shape


@settings(max_examples=20, deadline=None)
@given(smoothing=st.floats(0, 0.9), seed=st.integers(0, 100))
def test_smoothed_loss_counts_real_tokens_only(smoothing, seed):
    torch.manual_seed(seed)
    logits, target = torch.randn(3, 4, 7), torch.randint(0, 7, (3, 4))
    target[0, 0] = 3
    wider = F.pad(target, (0, 2))
    more = torch.cat([logits, torch.randn(3, 2, 7)], 1)
    loss = smoothed_sequence_loss(logits, target, smoothing)
    test_near(loss, smoothed_sequence_loss(more, wider, smoothing))
    by_hand = F.cross_entropy(logits[target > 0], target[target > 0], label_smoothing=smoothing)
    test_near(loss, by_hand)
    assert divisor_of(smoothed_sequence_loss)(logits, target) == (target != 0).sum()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MultiheadAttention(10, 4), "multiple of num_heads"),
        (lambda: MultiheadAttention(0, 1), "multiple of num_heads"),
        (lambda: Transformer(10, 12, 16, 4, share_vocab=True), "one vocabulary"),
        (lambda: Transformer(10, 10, 15, 4), "multiple of num_heads"),
        (lambda: sinusoidal_positions(4, 5), "even"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
