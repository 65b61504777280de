import pytest
import torch

from samkit.training import MLP, errors, gradients, losses

NET = MLP((5, 7, 3))


def as_modules(w):
    """The same network in torch's own layers."""
    first, second = torch.nn.Linear(5, 7).double(), torch.nn.Linear(7, 3).double()
    W1, b1, W2, b2 = w.split([35, 7, 21, 3])
    with torch.no_grad():
        first.weight.copy_(W1.reshape(5, 7).T)
        first.bias.copy_(b1)
        second.weight.copy_(W2.reshape(7, 3).T)
        second.bias.copy_(b2)
    return torch.nn.Sequential(first, torch.nn.ReLU(), second)


@pytest.fixture
def stack():
    generator = torch.Generator().manual_seed(0)
    w = torch.stack([NET.init(generator) for _ in range(4)])
    x = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (4, 6), generator=generator)
    return w, x, y


def test_a_stack_of_vectors_is_a_stack_of_networks(stack):
    w, x, y = stack
    assert NET.size == w.shape[1] == 66
    found = losses(NET, w, x, y), errors(NET, w, x, y), gradients(NET, w, x, y)
    for k in range(4):
        model = as_modules(w[k])
        z = model(x[k])
        loss = torch.nn.functional.cross_entropy(z, y[k])
        loss.backward()
        weight1, bias1, weight2, bias2 = (p.grad for p in model.parameters())
        gradient = torch.cat([weight1.T.flatten(), bias1, weight2.T.flatten(), bias2])
        torch.testing.assert_close(found[0][k], loss.detach())
        assert found[1][k] == (z.argmax(1) != y[k]).double().mean()
        torch.testing.assert_close(found[2][k], gradient)


def test_examples_are_shared_where_they_have_no_leading_dimension(stack):
    w, x, y = stack
    shared = losses(NET, w, x[0], y[0])
    torch.testing.assert_close(shared, losses(NET, w, x[:1].expand(4, 6, 5), y[:1].expand(4, 6)))


def test_initial_weights_are_within_torchs_default_bounds():
    w = NET.init(torch.Generator().manual_seed(3))
    assert w[:42].abs().max() <= 5**-0.5 and w[42:].abs().max() <= 7**-0.5
    assert w[:42].abs().max() > 0.9 * 5**-0.5
