"""Whatever the module keeps track of, measuring leaves everything bit for bit as it was."""

import contextlib
import random
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from samkit import measure

WIDTH = 4


class Counter(nn.Module):
    """Counts its calls: in a buffer in place, in a new buffer, in attributes of several kinds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("in_place", torch.zeros(()))
        self.register_buffer("anew", torch.zeros((), dtype=torch.long), persistent=False)
        self.calls, self.seen, self.names = 0, [], {}
        self.plain = torch.zeros(2)

    def forward(self, x):
        self.in_place += 1
        self.anew = self.anew + 1
        self.calls += 1
        self.seen.append(self.calls)
        self.names[self.calls] = "called"
        self.plain += 1
        if not hasattr(self, "late"):  # as rotary positions are kept
            self.register_buffer("late", torch.ones(()))
        return x * (1 + 0.1 * float(self.in_place) + 0.1 * self.calls + 0.1 * self.plain.sum())


class Switching(nn.Module):
    """Puts itself into another mode."""

    def forward(self, x):
        self.train(not self.training)
        return x if self.training else 2 * x


class Random(nn.Module):
    """Draws from everything that draws, a generator of its own included."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        noise = torch.rand(WIDTH) + torch.rand(WIDTH, generator=self.generator)
        return x + noise.to(x.dtype) + random.random() + np.random.rand()


class Teacher(nn.Module):
    """Frozen weights that follow the trained ones, and a codebook that is changed in place."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.teacher.requires_grad_(False)
        self.alias = [self.student.weight]

    def forward(self, x):
        with torch.no_grad():
            self.teacher.weight.lerp_(self.student.weight, 0.5)
            self.alias[0].data.clamp_(-1, 1)
        return self.student(x) + self.teacher(x)


class Clipped(nn.Module):
    """An embedding that renormalizes its own weights when it is used."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(3, WIDTH, max_norm=0.5)

    def forward(self, x):
        return x + self.table((x[:, 0] > 0).long())


class InstanceNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm1d(2, affine=True, track_running_stats=True)

    def forward(self, x):
        return self.norm(x.view(len(x), 2, -1)).flatten(1)


class Failing(nn.Module):
    """Raises in its n-th call."""

    def __init__(self, n):
        super().__init__()
        self.left = [n]  # not an attribute of the module that anybody puts back

    def forward(self, x):
        count = CALLS.setdefault(id(self), 0)
        CALLS[id(self)] = count + 1
        if count >= self.left[0]:
            raise ZeroDivisionError("on purpose")
        return x


CALLS: dict[int, int] = {}


def linear():
    return nn.Linear(WIDTH, WIDTH)


LAYERS = {
    "linear": linear,
    "frozen": lambda: linear().requires_grad_(False),
    "bfloat16": lambda: nn.Sequential(Cast(torch.bfloat16), linear().bfloat16(), Cast(None)),
    "relu in place": lambda: nn.ReLU(inplace=True),
    "dropout": lambda: nn.Dropout(0.5),
    "batchnorm": lambda: nn.BatchNorm1d(WIDTH),
    "instancenorm": InstanceNormed,
    "groupnorm": lambda: nn.GroupNorm(2, WIDTH),
    "spectral norm": lambda: torch.nn.utils.parametrizations.spectral_norm(linear()),
    "spectral norm, hook": lambda: torch.nn.utils.spectral_norm(linear()),
    "weight norm": lambda: torch.nn.utils.parametrizations.weight_norm(linear()),
    "weight norm, hook": lambda: torch.nn.utils.weight_norm(linear()),
    "counter": Counter,
    "switching": Switching,
    "random": Random,
    "teacher": Teacher,
    "clipped": Clipped,
    "fails at once": lambda: Failing(0),
    "fails later": lambda: Failing(5),
}


class Cast(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype or torch.float32)


MEASURES = {
    "sharpness": lambda *a: measure.sharpness(*a, rho=0.1, steps=2),
    "m-sharpness": lambda *a: measure.sharpness(*a, rho=0.1, m=2, steps=2, adaptive=True),
    "of a loader": lambda net, loss, x, y: measure.sharpness(net, loss, [(x, y)] * 2, rho=0.1, m=3),
    "average": lambda *a: measure.average_sharpness(*a, rho=0.1, draws=2),
    "eigenvalue": measure.top_eigenvalue,
    "trace": lambda *a: measure.hessian_trace(*a, draws=2),
    "line": lambda net, loss, x, y: measure.on_line(
        net, net.state_dict(), net.state_dict(), [0.5, 1.5], lambda n: n(x), statistics=[x]
    ),
    "plane": lambda net, loss, x, y: measure.on_plane(
        net, lambda u, v: net.state_dict(), [0.5], [1.5], lambda n: n(x), statistics=[x]
    ),
}


def bits(t):
    return t.detach().contiguous().flatten().view(torch.uint8).tolist()


def plain(value):
    """Attributes as something that can be compared."""
    if isinstance(value, torch.Tensor):
        return id(value), bits(value)
    if isinstance(value, torch.Generator):
        return bits(value.get_state())
    if isinstance(value, dict):
        return [(k, plain(v)) for k, v in value.items()]
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value if isinstance(value, int | float | str | bool) else id(value)


def everything(net, x, y):
    """Weights, buffers, modes, every other attribute, gradients, data and random states."""
    numpy_state = np.random.get_state()
    return {
        "weights": {n: (bits(p), p.requires_grad, p.dtype) for n, p in net.named_parameters()},
        "gradients": {
            n: None if p.grad is None else bits(p.grad) for n, p in net.named_parameters()
        },
        "buffers": {n: bits(b) for n, b in net.named_buffers()},
        "modes": {n: m.training for n, m in net.named_modules()},
        "attributes": {n: plain(vars(m)) for n, m in net.named_modules()},
        "data": (bits(x), bits(y)),
        "random": (bits(torch.get_rng_state()), random.getstate(), numpy_state[1].tolist()),
        "position": numpy_state[2:],
    }


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    layers=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4),
    modes=st.lists(st.booleans(), min_size=30, max_size=30),
    of=st.sampled_from(sorted(MEASURES)),
    seed=st.integers(0, 5),
    called_before=st.booleans(),
)
def test_modules_drawn_at_random_are_left_alone(layers, modes, of, seed, called_before):
    check(layers, modes, of, seed, called_before)


@pytest.mark.parametrize("of", ["m-sharpness", "eigenvalue", "line"])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_is_left_alone(layer, of):
    for training in (True, False):
        check([layer], [training] * 30, of, 0, called_before=training)


def check(layers, modes, of, seed, called_before):
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(linear(), *(LAYERS[name]() for name in layers), linear())
        for module, mode in zip(net.modules(), modes, strict=False):
            module.training = mode
        x, y = torch.randn(6, WIDTH), torch.randint(WIDTH, (6,))
        if called_before and not any(name.startswith("fails") for name in layers):
            with contextlib.suppress(RuntimeError):  # two layers in place, one after the other
                net(x.clone()).sum().backward()
        before = everything(net, x, y)
        # Undefined, Unsupported, the failure on purpose, and what torch raises, are all alike here
        with contextlib.suppress(Exception):
            MEASURES[of](
                net, lambda z, t: nn.functional.cross_entropy(z, t, reduction="none"), x, y
            )
    after = everything(net, x, y)
    for name, value in before.items():
        assert after[name] == value, name


@pytest.mark.parametrize("kind", [Counter, Switching, Random, Teacher, InstanceNormed])
def test_a_module_that_keeps_track_has_one_loss(kind):
    """Each evaluation starts from the same state: a ball of no size has no sharpness."""
    torch.manual_seed(0)
    net = nn.Sequential(linear(), kind(), linear()).double()
    x, y = torch.randn(6, WIDTH, dtype=torch.float64), torch.randint(WIDTH, (6,))

    def loss(z, t):
        return nn.functional.cross_entropy(z, t, reduction="none")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for m in (None, 2):
            assert 0 < measure.sharpness(net, loss, x, y, rho=1e-9, m=m) < 1e-7
        mean, error = measure.average_sharpness(net, loss, x, y, rho=1e-9, draws=3)
    assert abs(mean) + error < 1e-7
