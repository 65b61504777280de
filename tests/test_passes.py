"""What the two passes of a step share."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from samkit import passes


@pytest.mark.parametrize("delta", [1.0, float("inf"), float("nan"), 1e-30, 1e30])
def test_weights_come_back_bit_for_bit(delta):
    w = [torch.randn(5), torch.randn(2, 2)]
    before = [t.clone() for t in w]
    with pytest.raises(KeyError), passes.Moves()(w, [torch.full((5,), delta), None]):
        assert not torch.equal(w[0], before[0]) or delta == 1e-30
        assert torch.equal(w[1], before[1])
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(w, before, strict=True))


def conv():
    """A weight whose memory is in the order of channels_last."""
    return torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 0.3, torch.tensor(-1e-3)])
def test_swapped_weights_are_those_moved_in_place(dtype, scale):
    torch.manual_seed(0)
    w = [nn.Parameter(t.to(dtype)) for t in (torch.randn(40, 30), torch.randn(()), conv())]
    d = [torch.randn_like(p) for p in w]
    before, address = [p.detach().clone() for p in w], [p.data_ptr() for p in w]
    assert passes.swappable(w, d, 1.0)
    seen = []
    for way in (passes.in_place, passes.swapped):
        spare = [torch.empty_like(p) for p in w]
        with torch.no_grad(), way(w, list(d), float(scale), spare):
            seen.append([p.detach().clone() for p in w])
            assert [p.stride() for p in w] == [t.stride() for t in before]
        assert all(torch.equal(p, t) for p, t in zip(w, before, strict=True))
        assert [p.data_ptr() for p in w] == address
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def flat():
    """Two parameters in one memory, which somebody else reads."""
    whole = torch.ones(4)
    return whole, [nn.Parameter(whole[:2]), nn.Parameter(whole[2:])]


def test_weights_in_a_flat_buffer_move_where_they_are():
    whole, w = flat()
    with passes.Moves()(w, [torch.ones(2), torch.full((2,), 2.0)]):
        assert whole.tolist() == [2, 2, 3, 3]
    assert whole.tolist() == [1, 1, 1, 1]


def test_subclasses_of_tensor_move_where_they_are():
    class Mine(torch.Tensor):
        pass

    w = torch.ones(2).as_subclass(Mine)
    inside = torch.Tensor(w)
    with passes.Moves()([w], [torch.ones(2)]):
        assert inside.tolist() == [2, 2]
    assert inside.tolist() == [1, 1]


@pytest.mark.parametrize("of", ["before", "inside"])
def test_a_graph_of_other_weights_is_not_differentiated(of):
    w = nn.Parameter(torch.ones(2))
    loss = w.square().sum()
    with passes.Moves()([w], [torch.ones(2)]):
        if of == "inside":
            loss = w.square().sum()
        else:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
    if of == "inside":
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_sparse_move():
    w, index = torch.zeros(3, 2), torch.tensor([[1, 1]])
    delta = torch.sparse_coo_tensor(index, torch.ones(2, 2), (3, 2), check_invariants=True)
    with passes.Moves()([w], [delta]):
        assert w.tolist() == [[0, 0], [2, 2], [0, 0]]
    assert (w == 0).all()


def test_nothing_moves():
    with passes.Moves()([torch.ones(2)], [None]):
        pass


def test_random_numbers_are_drawn_again():
    state = passes.RandomState([torch.ones(1)])
    first = torch.randn(3)
    state.restore()
    assert torch.equal(first, torch.randn(3))


def test_modules_called_finds_those_inside():
    inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    other = nn.Linear(2, 2)
    with passes.modules_called() as seen:
        inner(torch.randn(3, 2))
    other(torch.randn(3, 2))
    assert seen.roots == [inner]


def test_moves_do_not_keep_what_they_have_added():
    w = torch.zeros(2)
    delta = torch.ones(2)
    there = weakref.ref(delta)
    moved = passes.Moves()([w], [delta])
    del delta
    with moved:
        assert w.tolist() == [1, 1]
        assert there() is None


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_total_shows_what_is_not_finite(bad):
    sparse = torch.tensor([[0.0], [bad]]).to_sparse()
    for some in ([torch.tensor([1.0, bad])], [None, torch.ones(2, dtype=torch.float64), sparse]):
        assert not passes.total(some).isfinite()
        assert not passes.finite(some)
    assert passes.finite([None, torch.ones(2)])
    assert passes.finite([])


def test_moves_on_several_devices():
    with FakeTensorMode():  # two GPUs, without numbers
        w = [torch.empty(3, device=f"cuda:{i}") for i in (0, 1)]
        d = [torch.empty(3, device=f"cuda:{i}") for i in (0, 1)]
        passes._add(w, d, torch.empty((), device="cuda:0"))
        passes._add(w, d, 0.1)


def test_owners_are_the_outermost_modules_that_have_a_weight():
    net, other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2)
    torch.compile(other, backend="eager")(torch.ones(1, 2))
    around = nn.ModuleDict({"net": net})
    assert passes.owners([net[1].weight, nn.Parameter(torch.ones(1))]) == [around]
    assert passes.owners([]) == []
