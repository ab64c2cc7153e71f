"""Entity embeddings: as tables, joined in pandas and in SQL, as maps; the autoencoder."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.nb03d import evaluating
from exp.nb09b import TablePreprocessor, TabularModel
from exp.nb09c import (
    TableAutoencoder,
    align_points,
    distance_agreement,
    embedding_tables,
    join_embeddings,
    pair_distances,
    swap_noise,
)

pd = pytest.importorskip("pandas")


def made(n=200, seed=0):
    """A table of text, whole numbers and halves, each with gaps, and an untrained model for it."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "state": rng.choice(["BY", "HH", "SN", None], n),
            "day": rng.integers(1, 8, n),
            "size": rng.choice([0.5, 1.0, np.nan], n),
            "x": rng.normal(size=n),
        }
    )
    prep = TablePreprocessor(["state", "day", "size"], ["x"]).fit(frame)
    torch.manual_seed(seed)
    return frame, prep, TabularModel(prep.levels, 1, embedding_sizes=[3, 2, 1])


def embedded(model, prep, frame):
    codes, _, _ = prep.transform(frame)
    with evaluating(model), torch.no_grad():
        return model.embed(codes).numpy()


def test_tables_hold_the_rows_of_the_embeddings_by_level():
    frame, prep, model = made()
    tables = embedding_tables(model, prep)
    assert list(tables) == ["state", "day", "size"]
    assert tables["state"]["state"].isna().tolist() == [True, True, False, False, False]
    assert tables["state"]["state"].tolist()[2:] == ["BY", "HH", "SN"]
    assert tables["day"]["day"].tolist()[1:] == list(range(1, 8))
    assert tables["size"]["size"].tolist()[2:] == [0.5, 1.0]
    weight = model.embeddings[0].weight.detach().numpy()
    assert np.array_equal(tables["state"][["state_0", "state_1", "state_2"]].to_numpy(), weight)


def test_a_join_gives_what_the_model_looks_up():
    frame, prep, model = made()
    complete = frame.dropna()
    joined = join_embeddings(complete, embedding_tables(model, prep))
    assert joined.index.equals(complete.index)
    assert np.allclose(joined.to_numpy(), embedded(model, prep, complete))


def test_levels_never_seen_get_the_row_for_them():
    frame, prep, model = made()
    new = pd.DataFrame({"state": ["BY", "XX"], "day": [3, 99], "size": [1.0, 7.5], "x": [0.0, 0.0]})
    joined = join_embeddings(new, embedding_tables(model, prep))
    assert np.allclose(joined.to_numpy(), embedded(model, prep, new))


def test_an_inner_join_in_sql_gives_the_same_features(tmp_path):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    frame, prep, model = made()
    complete = frame.dropna().assign(number=lambda f: range(len(f)))
    tables = embedding_tables(model, prep)
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    complete.to_sql("facts", engine, index=False)
    columns, joins = [], []
    for name, table in tables.items():
        table.dropna().to_sql(f"emb_{name}", engine, index=False)
        columns += [f"e_{name}.{column}" for column in table.columns[1:]]
        joins.append(f"JOIN emb_{name} e_{name} ON e_{name}.{name} = facts.{name}")
    query = f"SELECT {', '.join(columns)} FROM facts {' '.join(joins)} ORDER BY number"
    found = pd.read_sql(sqlalchemy.text(query), engine)
    engine.dispose()
    assert np.allclose(found.to_numpy(), embedded(model, prep, complete), atol=1e-6)
    assert list(found) == list(join_embeddings(complete, tables))


def test_tables_survive_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    _, prep, model = made()
    for name, table in embedding_tables(model, prep).items():
        table.to_parquet(tmp_path / f"{name}.parquet")
        again = pd.read_parquet(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(again, table, check_dtype=False)


def test_what_does_not_belong_together_is_refused():
    frame, prep, model = made()
    with pytest.raises(ValueError, match="the one that it was trained with"):
        embedding_tables(TabularModel([3, 3], 1), prep)
    with pytest.raises(ValueError, match="'state'"):
        join_embeddings(frame[["day", "size"]], embedding_tables(model, prep))


@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 9))
@settings(deadline=None)
def test_alignment_undoes_turning_mirroring_scaling_and_moving(n, d, seed):
    g = torch.Generator().manual_seed(seed)
    points = torch.randn(n, d, dtype=torch.float64, generator=g)
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=g))[0]
    moved = 3 * points @ turn + torch.randn(d, dtype=torch.float64, generator=g)
    assert torch.allclose(align_points(moved, points), points, atol=1e-6)
    if n > 2:
        assert distance_agreement(moved, points) == pytest.approx(1)
    assert torch.allclose(pair_distances(moved), 3 * pair_distances(points))
    assert torch.allclose(pair_distances(points), torch.pdist(points))


def test_points_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="as many"):
        align_points(torch.zeros(3, 2), torch.zeros(4, 2))


@given(st.integers(1, 30), st.integers(0, 4), st.floats(0, 1), st.integers(0, 9))
@settings(deadline=None)
def test_swap_noise_keeps_each_column_to_its_own_values(n, c, share, seed):
    columns = torch.arange(c) * 100 + torch.arange(n)[:, None]
    g = torch.Generator().manual_seed(seed)
    noisy = swap_noise(columns, share, g)
    assert noisy.shape == columns.shape and noisy.dtype == columns.dtype
    assert (noisy // 100 == torch.arange(c)).all()
    assert noisy.equal(swap_noise(columns, share, torch.Generator().manual_seed(seed)))


def test_swap_noise_swaps_the_share_it_is_told():
    columns = torch.arange(10_000)[:, None].expand(-1, 3)
    changed = (swap_noise(columns, 0.2) != columns).double().mean(0)
    assert ((changed - 0.2).abs() < 0.02).all()
    with pytest.raises(ValueError, match="0..1"):
        swap_noise(columns, 2)


@pytest.mark.parametrize("levels, numbers", [([4, 3], 2), ([4], 0), ([], 2)])
def test_an_autoencoder_learns_to_restore(levels, numbers):
    torch.manual_seed(0)
    n = 256
    first = torch.randint(1, 3, (n, 1))
    codes = first.expand(-1, len(levels))  # each column tells the others
    values = first.expand(-1, numbers) - 1.5
    net = TableAutoencoder(levels, numbers, n_codes=4, hidden=32)
    opt = torch.optim.Adam(net.parameters(), 0.01)
    row, losses = torch.cat([codes, values], 1), []
    for _ in range(60):
        loss = net.loss(net(codes, values), row)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with evaluating(net), torch.no_grad():
        assert net.encode(codes, values).shape == (n, 4)
        assert net(codes, values).shape == (n, sum(levels) + numbers)
        again = pickle.loads(pickle.dumps(net))
        assert again(codes, values).equal(net(codes, values))
