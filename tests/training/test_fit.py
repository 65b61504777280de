import contextlib
import importlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from samkit import Perturbation, msam_grad, nets
from samkit.errors import Diverged, Undefined
from samkit.training import Recipe, fit
from samkit.training.evaluation import cross_entropy

fitting = importlib.import_module("samkit.training.fit")  # samkit.training.fit is the function too

N, BATCH = 22, 5  # an incomplete last batch
SHORT = {"epochs": 3, "batch_size": BATCH, "learning_rate": 0.2}


@pytest.fixture
def examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (N,), generator=generator)


def net(seed=0):
    torch.manual_seed(seed)
    return nets.mlp(6, 8, 3).double()


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def gradient(network, x, y, decay):
    """Of the mean loss with weight decay in it, as one vector."""
    loss = F.cross_entropy(network(x), y) + decay / 2 * sum(
        p.square().sum() for p in network.parameters()
    )
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


def put(network, w):
    torch.nn.utils.vector_to_parameters(w, network.parameters())


def by_the_formulas(recipe, x, y, make=net):
    """The training loop as the docstring of Recipe has it, with one vector of weights."""
    network = make()
    w, velocity, step = weights(network), 0.0, 0
    batches = N // BATCH
    for epoch in range(recipe.epochs):
        rule = recipe.at(epoch)
        own, other, _, _ = np.random.SeedSequence([recipe.seed, epoch]).generate_state(4)
        order, others = (
            torch.randperm(N, generator=torch.Generator().manual_seed(int(s))) for s in (own, other)
        )
        for k in range(batches):
            rows = order[k * BATCH : (k + 1) * BATCH]
            how = rule.perturbation
            if how.source != "own":
                at = (k - 1) % batches
                source = order if how.source == "previous" else others
                at = at if how.source == "previous" else k
                groups = [source[at * BATCH : (at + 1) * BATCH]]
            else:
                groups = rows.split(how.m or BATCH)
            g = torch.zeros_like(w)
            for group in groups:
                put(network, w)
                ascent = gradient(network, x[group], y[group], recipe.weight_decay)
                length = how.rho / ascent.norm() if how.normalize else how.rho
                length *= len(group) / BATCH if how.share_of_batch else 1
                put(network, w + length * ascent)
                inside = rows if how.source != "own" else group
                share = len(inside) / BATCH
                g += share * gradient(network, x[inside], y[inside], recipe.weight_decay)
            velocity = recipe.momentum * velocity + g
            done = step / (recipe.epochs * batches)
            rate = {
                "cosine": 0.5 * (1 + math.cos(math.pi * done)),
                "piecewise": 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01,
                "constant": 1.0,
            }[recipe.schedule] * recipe.learning_rate
            w, step = w - rate * velocity, step + 1
    return w


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"schedule": "piecewise", "weight_decay": 0.1},
        {"perturbation": Perturbation(0.2), "weight_decay": 0.1},
        {"perturbation": Perturbation(0.2, normalize=False), "schedule": "constant"},
        {"perturbation": Perturbation(0.2, m=2)},
        {"perturbation": Perturbation(0.2, m=1, normalize=False)},
        {"perturbation": Perturbation(0.2, m=2), "weight_decay": 0.1},
        {"perturbation": Perturbation(0.2, m=5)},
        {"perturbation": Perturbation(0.2, m=2), "separate_groups": True, "weight_decay": 0.1},
        {"perturbation": Perturbation(0.2, source="previous")},
        {"perturbation": Perturbation(0.2, source="independent")},
        {"switch": ((1, Perturbation(0.3, m=2)),)},
        {
            "perturbation": Perturbation(0.2),
            "switch": ((2, Perturbation()), (1, Perturbation(0.4))),
        },
        {
            "perturbation": Perturbation(0.9, m=1, normalize=False, share_of_batch=True),
            "schedule": "constant",
        },
    ],
)
def test_it_is_the_loop_of_the_formulas(examples, settings, device):
    recipe, network = Recipe(**SHORT, **settings, seed=3), net().to(device)
    fit(network, recipe, examples)
    x, y = (part.to(device) for part in examples)
    expected = by_the_formulas(recipe, x, y, make=lambda: net().to(device))
    torch.testing.assert_close(weights(network), expected)


class Played:
    """Stands for a CUDA graph where there is none: it replays by calling the passes again."""

    played = 0

    def replay(self):
        Played.played += 1
        x, y, *other = self.step.inputs
        self.step.loss = self.step.passes((x, y), tuple(other) or None)


@pytest.mark.parametrize(
    "how",
    [
        Perturbation(),
        Perturbation(0.2),
        Perturbation(0.2, source="previous"),
        Perturbation(0.2, source="random"),
    ],
    ids=lambda how: how.label,
)
def test_a_recorded_step_is_played_with_the_batch_of_each_call(examples, how, monkeypatch):
    """On a GPU the whole training is compared, above; here that each call has its own examples."""
    recipe = Recipe(how, **SHORT, seed=3)
    expected, found = net(), net()
    fit(expected, recipe, examples)

    def recording(graph, stream):
        graph.step = step
        return contextlib.nullcontext()

    step = None

    def as_on_a_gpu(run, rule):
        nonlocal step
        step = step or fitting.Recorded(run._sam(rule) if rule.perturbation.rho else run._erm())
        return step

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Played)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(fitting._Run, "_gradient", as_on_a_gpu)
    monkeypatch.setattr(Played, "played", 0)
    if how.source == "random":  # recording must not draw: on a GPU it does not
        monkeypatch.setattr(fitting.Recorded, "_record", lambda self, new: keep(self, new))

        def keep(self, new):
            self.inputs, self.graph.step = [part.clone() for part in new], self

    fit(found, recipe, examples)
    assert Played.played == recipe.epochs * (N // BATCH) - fitting.Recorded.WARM_UP
    torch.testing.assert_close(weights(found), weights(expected), rtol=0, atol=0)


def test_a_network_with_dropout_is_not_recorded():
    assert not fitting.has_dropout(net())
    assert fitting.has_dropout(torch.nn.Sequential(net(), torch.nn.Dropout(0.1)))


def batch_norm_net():
    """Every pass in train mode is normalized by the statistics of what passes."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
    return torch.nn.Sequential(*layers).double()


@pytest.mark.parametrize(
    "settings",
    [
        {"perturbation": Perturbation(0.2)},
        {"perturbation": Perturbation(0.2, m=3), "separate_groups": True},
        {"perturbation": Perturbation(0.2, m=3), "separate_groups": True, "weight_decay": 0.1},
        {"switch": ((1, Perturbation(0.2, m=5, normalize=False)),), "separate_groups": True},
    ],
)
def test_under_batchnorm_each_group_has_its_own_statistics(examples, settings):
    recipe, network = Recipe(**SHORT, **settings, seed=3), batch_norm_net()
    fit(network, recipe, examples)
    expected = by_the_formulas(recipe, *examples, make=batch_norm_net)
    torch.testing.assert_close(weights(network), expected)


def test_decay_in_the_step_alone_is_not_in_the_ascent(examples):
    x, y = (part[:BATCH] for part in examples)
    settings = {"weight_decay": 0.1, "decay_in_ascent": False}
    recipe = Recipe(Perturbation(0.3, m=1), **settings, epochs=1, batch_size=BATCH)
    network, other = net(), net()
    fit(network, recipe, (x, y))
    before = weights(other)
    msam_grad(other, cross_entropy, x, y, rho=0.3, m=1, method="loop")
    g = torch.cat([p.grad.flatten() for p in other.parameters()])
    torch.testing.assert_close(weights(network), before - 0.1 * (g + 0.1 * before))


def test_random_perturbations_have_their_length_and_leave_no_trace(examples):
    x, y = examples
    seen = []

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, z):
            if self.training:
                seen.append(weights(self.inner))
            return self.inner(z)

    network = Watched()
    fit(network, Recipe(Perturbation(0.5, source="random"), epochs=1, batch_size=N), (x, y))
    torch.testing.assert_close((seen[0] - weights(net())).norm().item(), 0.5)
    assert len(seen) == 1
    assert (weights(network) - weights(net())).norm() > 0


def test_random_perturbations_may_be_gaussian(examples):
    """Unnormalized: N(0, rho^2 / K) for each of the K weights."""
    seen = []

    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nets.mlp(6, 4000, 3).double()

        def forward(self, z):
            if self.training:
                seen.append(weights(self.inner))
            return self.inner(z)

    network = Wide()
    start, K = weights(network), len(weights(network))
    how = Perturbation(0.5, source="random", normalize=False)
    fit(network, Recipe(how, epochs=1, batch_size=N), examples)
    z = ((seen[0] - start) * K**0.5 / 0.5).numpy()
    assert stats.kstest(z, "norm").pvalue > 0.01
    assert abs(z.std() - 1) < 4 / (2 * K) ** 0.5


def test_all_methods_see_the_same_batches(examples):
    x, y = examples
    orders = []
    for how in (Perturbation(), Perturbation(0.1), Perturbation(0.1, m=5)):
        rows = []

        def noting(inputs, *, generator, rows=rows):
            rows.append(inputs.clone())
            return inputs

        fit(net(), Recipe(how, **SHORT), (x, y), augment=noting)
        orders.append(torch.cat(rows))
    assert torch.equal(orders[0], orders[1]) and torch.equal(orders[0], orders[2])


def test_metrics_are_those_of_the_trained_network(examples):
    x, y = examples
    noisy = torch.arange(N) % 3 == 0
    network = net()
    found = fit(network, Recipe(**SHORT), (x, y), evaluate={"test": (x[:7], y[:7])}, noisy=noisy)
    wrong = (network(x).argmax(1) != y).float()
    last = {name: values[-1] for name, values in found.history.items()}
    assert found.history["epoch"] == [1, 2, 3]
    assert last["train_loss"] == pytest.approx(F.cross_entropy(network(x), y).item())
    assert last["train_error"] == pytest.approx(wrong.mean().item())
    assert last["train_clean_error"] == pytest.approx(wrong[~noisy].mean().item())
    assert last["train_noisy_error"] == pytest.approx(wrong[noisy].mean().item())
    assert last["test_error"] == pytest.approx(wrong[:7].mean().item())
    some = fit(net(), Recipe(**SHORT), (x, y), evaluate_every=2).history
    assert some["epoch"] == [2, 3]


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"perturbation": Perturbation(0.2, source="random")},
        {"perturbation": Perturbation(0.2, m=2), "swa_from": 1},
        {"switch": ((2, Perturbation(0.3)),)},
    ],
)
def test_resumed_is_bit_for_bit_uninterrupted(tmp_path, settings):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=generator)
    y = torch.randint(3, (N,), generator=generator)

    def make():
        torch.manual_seed(0)
        layers = torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Dropout(0.3)
        return torch.nn.Sequential(*layers, torch.nn.Linear(8, 3))

    def stop(epoch, _):
        if epoch == 3:
            raise Stop

    recipe = Recipe(**{**SHORT, "epochs": 6}, **settings)
    whole = make()
    at_once = fit(whole, recipe, (x, y))
    file = tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        fit(make(), recipe, (x, y), checkpoint=file, progress=stop)
    torch.manual_seed(99)
    resumed = make()
    with torch.no_grad():
        for p in resumed.parameters():
            p.zero_()
    in_parts = fit(resumed, recipe, (x, y), checkpoint=file)
    assert torch.equal(weights(whole), weights(resumed))
    assert at_once.history == in_parts.history
    if recipe.swa_from is not None:
        assert torch.equal(weights(at_once.averaged), weights(in_parts.averaged))
    with pytest.raises(ValueError, match="checkpoint of another recipe"):
        fit(make(), Recipe(**{**SHORT, "epochs": 7}, **settings), (x, y), checkpoint=file)


def test_a_checkpoint_of_something_else_is_refused(tmp_path, examples):
    (x, y), recipe, file = examples, Recipe(**SHORT), tmp_path / "saved.pt"
    fit(net(), recipe, (x, y), checkpoint=str(file))
    wider = nets.mlp(6, 9, 3).double()
    for network, train, what in (
        (net(), (x + 1, y), "training set"),
        (net(), (x, (y + 1) % 3), "training set"),
        (net(), (x[:-1], y[:-1]), "training set"),
        (wider, (x, y), "network"),
    ):
        with pytest.raises(ValueError, match=f"another {what}; remove it"):
            fit(network, recipe, train, checkpoint=file)
    old = torch.load(file, weights_only=True)
    del old["training set"]
    torch.save(old, file)
    with pytest.raises(ValueError, match="another training set"):
        fit(net(), recipe, (x, y), checkpoint=file)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"half"])
def test_a_damaged_checkpoint_says_to_delete_it(tmp_path, examples, content):
    file = tmp_path / "saved.pt"
    if content == b"half":
        torch.save({"net": net().state_dict()}, file)
        content = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"saved.pt is damaged or no checkpoint \(.+\): delete it"):
        fit(net(), Recipe(**SHORT), examples, checkpoint=file)


def test_a_file_with_something_else_is_no_checkpoint(tmp_path, examples):
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="it holds a list"):
        fit(net(), Recipe(**SHORT), examples, checkpoint=tmp_path / "list.pt")
    with pytest.raises(OSError, match="directory"):
        fit(net(), Recipe(**SHORT), examples, checkpoint=tmp_path)


def test_checkpoints_are_written_beside_each_other(tmp_path, examples, monkeypatch):
    written, save = [], torch.save
    monkeypatch.setattr(
        torch, "save", lambda state, file: (written.append(file), save(state, file))
    )
    for rho in (0.1, 0.2):
        recipe = Recipe(Perturbation(rho), **SHORT)
        fit(net(), recipe, examples, checkpoint=tmp_path / f"model-rho{rho}")
    assert len(set(written)) == 2
    assert {file.name for file in tmp_path.iterdir()} == {"model-rho0.1", "model-rho0.2"}


@pytest.mark.parametrize(
    "loss",
    [F.cross_entropy, lambda z, y: cross_entropy(z, y)[:, None]],
)
def test_a_loss_that_is_not_one_per_example_is_refused_before_training(examples, loss):
    network = net()
    before = weights(network)
    with pytest.raises(ValueError, match="one loss per example, shape"):
        fit(network, Recipe(**SHORT), examples, loss_fn=loss)
    assert torch.equal(weights(network), before)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"perturbation": Perturbation(0.1, source="random")},
        {"perturbation": Perturbation(0.1)},
        {"perturbation": Perturbation(0.1, steps=3)},
        {"perturbation": Perturbation(0.1), "step_size_only": True},
        {"perturbation": Perturbation(0.1, source="previous")},
        {"perturbation": Perturbation(0.1, source="independent", steps=2)},
        {"perturbation": Perturbation(0.1, m=1)},
        {"perturbation": Perturbation(0.1, m=2)},
        {"perturbation": Perturbation(0.1, m=2), "separate_groups": True},
        {"switch": ((1, Perturbation(0.1)),)},
    ],
    ids=str,
)
def test_passes_are_those_made(examples, settings, monkeypatch):
    """Those of training: m-SAM's checks of its fast path, at calls 1, 2, 4, ..., come on top."""
    monkeypatch.setattr("samkit.msam.plan.check", lambda *_, **__: math.inf)
    recipe, network, seen = Recipe(**SHORT, **settings), net(), []

    def counted(module, inputs):
        if module.training:  # not where it is evaluated
            seen.append(len(inputs[0]))

    network.register_forward_pre_hook(counted)
    fit(network, recipe, examples)
    assert sum(seen) == recipe.passes() * (N // BATCH) * BATCH


def test_the_average_is_that_of_the_ends_of_epochs(examples):
    ends = []
    network = net()
    found = fit(
        network,
        Recipe(**SHORT, swa_from=1),
        examples,
        progress=lambda *_: ends.append(weights(network)),
    )
    torch.testing.assert_close(weights(found.averaged), (ends[1] + ends[2]) / 2)


@pytest.mark.parametrize("settings", [{}, {"perturbation": Perturbation(0.1)}])
def test_divergence_names_the_step_and_keeps_the_checkpoint(tmp_path, examples, settings):
    x, y = examples
    file = tmp_path / "checkpoint.pt"
    calls = []

    def poison(inputs, *, generator):
        calls.append(1)
        return inputs * math.nan if len(calls) == 11 else inputs

    recipe = Recipe(**SHORT, **settings)
    network = net()
    with pytest.raises(Diverged, match=r"in step 10 \(epoch 2.*Lower rho.*an earlier") as caught:
        fit(network, recipe, (x, y), checkpoint=file, checkpoint_every=1, augment=poison)
    assert caught.value.step == 10
    assert caught.value.history["epoch"] == [1, 2]
    again = net()
    fit(again, recipe, (x, y), checkpoint=file)  # goes on after epoch 2, without the poison
    whole = net()
    fit(whole, recipe, (x, y))
    assert torch.equal(weights(again), weights(whole))


def test_a_huge_learning_rate_diverges_with_a_clear_error(examples):
    with pytest.raises(Diverged, match="Lower rho or the learning rate"):
        fit(net(), Recipe(**{**SHORT, "learning_rate": 1e200, "epochs": 20}), examples)


def test_batchnorm_is_refused_under_small_m_and_trained_otherwise():
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 2
    make = lambda: nets.resnet("tiny", width=2, classes=2)  # noqa: E731
    recipe = {"epochs": 1, "batch_size": 4, "learning_rate": 0.01}
    with pytest.raises(Undefined, match="BatchNorm"):
        fit(make(), Recipe(Perturbation(0.1, m=2), **recipe), (x, y))
    network = make()
    fit(network, Recipe(Perturbation(0.1), **recipe), (x, y))
    counts = {b.item() for n, b in network.named_buffers() if n.endswith("num_batches_tracked")}
    assert counts == {2}  # one a step
    network = make()
    fit(network, Recipe(Perturbation(0.1, m=2), separate_groups=True, **recipe), (x, y))
    counts = {b.item() for n, b in network.named_buffers() if n.endswith("num_batches_tracked")}
    assert counts == {4}  # one a group


def test_global_random_numbers_and_modes_are_put_back(examples):
    network = net()
    network[1].eval()
    torch.manual_seed(5)
    fit(network, Recipe(Perturbation(0.1, source="random"), **SHORT), examples)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    assert [m.training for m in network] == [True, False, True]


@pytest.mark.parametrize("settings", [{}, {"perturbation": Perturbation(0.1)}, {"swa_from": 1}])
def test_a_frozen_batchnorm_stays_frozen(examples, settings):
    x, y = examples
    network = batch_norm_net()
    network[1].eval().requires_grad_(False)
    network[1].running_mean.fill_(0.5)
    frozen = {k: v.clone() for k, v in network[1].state_dict().items()}
    modes = []
    result = fit(
        network,
        Recipe(**SHORT, **settings),
        (x, y),
        progress=lambda *_: (modes.append(network[1].training), network.train()),
    )
    assert modes == [False] * 3, "also where progress puts it into train mode"
    assert not network[1].training and network.training
    assert all(torch.equal(network[1].state_dict()[k], v) for k, v in frozen.items())
    if result.averaged is not None:
        averaged = result.averaged.module[1].state_dict()
        assert all(torch.equal(averaged[k], v) for k, v in frozen.items())


def test_a_network_in_eval_mode_is_trained_in_train_mode_and_given_back_in_eval_mode(examples):
    one, two = batch_norm_net(), batch_norm_net().eval()
    for network in (one, two):
        fit(network, Recipe(**SHORT), examples)
    assert torch.equal(weights(one), weights(two))
    assert one.training and not any(m.training for m in two.modules())
    with pytest.raises(ZeroDivisionError):
        fit(two, Recipe(**SHORT), examples, progress=lambda *_: 1 / 0)
    assert not any(m.training for m in two.modules())


def outputs_and_targets():
    """By name: outputs, targets, and the share of errors counted one by one; None for none."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    def labels(classes, *shape):
        return torch.randint(classes, shape, generator=generator)

    square, pixels = random(6, 5, 8, 8), labels(5, 6, 8, 8)
    by_pixel = [
        int(max(range(5), key=lambda c: square[k, c, i, j])) != int(pixels[k, i, j])
        for k in range(6)
        for i in range(8)
        for j in range(8)
    ]
    masked = pixels.clone()
    masked[:, :2] = -100
    tokens, words = random(6, 4, 9), labels(9, 6, 4)
    return {
        "classes": (random(6, 3), labels(3, 6), 0.5),
        "square images": (square, pixels, np.mean(by_pixel)),
        "pixels without a label": (
            square,
            masked,
            np.mean(np.reshape(by_pixel, (6, 8, 8))[:, 2:]),
        ),
        "tokens": (tokens, words, float((tokens.argmax(2) != words).double().mean())),
        "as many classes as rows and columns": (
            cube := random(6, 4, 4, 4),
            sides := labels(4, 6, 4, 4),
            float((cube.argmax(1) != sides).double().mean()),
        ),
        "regression": (random(6, 1), random(6, 1), None),
        "quantiles of a number": (random(6, 3), random(6), None),
        "regression on whole numbers": (random(6, 1), labels(9, 6), None),
        "soft labels": (random(6, 3), random(6, 3).softmax(1), None),
        "several labels at once": (random(6, 3), labels(2, 6, 3), None),
        "one logit": (random(6), labels(2, 6), None),
        "a dict": ({"logits": random(6, 3)}, labels(3, 6), None),
    }


@pytest.mark.parametrize("task", outputs_and_targets())
def test_the_error_is_that_of_the_task_or_absent(task):
    outputs, targets, expected = outputs_and_targets()[task]
    if task == "classes":
        expected = float((outputs.argmax(1) != targets).double().mean())

    class Table(torch.nn.Module):
        """Gives the outputs of the examples whose numbers are its inputs."""

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, rows):
            def at(t):
                return t[rows] * (1 + 0 * self.scale)

            return {k: at(v) for k, v in outputs.items()} if task == "a dict" else at(outputs)

    def loss(z, y):
        z = z["logits"] if isinstance(z, dict) else z
        return z.flatten(1).mean(1) if z.dim() > 1 else z

    recipe = Recipe(epochs=1, batch_size=3)
    history = fit(Table(), recipe, (torch.arange(6), targets), loss_fn=loss).history
    assert history["train_loss"]
    if expected is None:
        assert "train_error" not in history
    else:
        assert history["train_error"][0] == pytest.approx(expected)
    noisy = torch.arange(6) < 3
    if expected is None:
        with pytest.raises(ValueError, match="these targets are no classes"):
            fit(Table(), recipe, (torch.arange(6), targets), loss_fn=loss, noisy=noisy)
    else:
        history = fit(
            Table(), recipe, (torch.arange(6), targets), loss_fn=loss, noisy=noisy
        ).history
        halves = history["train_clean_error"][0], history["train_noisy_error"][0]
        assert np.mean(halves) == pytest.approx(expected)


def test_statistics_of_the_average_are_those_of_its_own_weights(examples):
    """Estimated by the averaged network itself, with dropout as it is in the network's mode."""
    x, y = examples
    averaged = fit(batch_norm_net(), Recipe(**SHORT, swa_from=1), (x, y)).averaged
    h = averaged.module[0](x)
    torch.testing.assert_close(averaged.module[1].running_mean, h.mean(0))
    torch.testing.assert_close(averaged.module[1].running_var, h.var(0))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"perturbation": "SAM"}, "'SAM': pass a samkit.Perturbation"),
        ({"schedule": "linear"}, "schedule='linear': pass one of"),
        ({"perturbation": Perturbation(0.1, m=129)}, "from 1 to 128"),
        ({"perturbation": Perturbation(0.1, m=4, steps=2)}, "are for m = batch_size"),
        ({"perturbation": Perturbation(0.1, m=4, adaptive=True)}, "are for m = batch_size"),
        ({"perturbation": Perturbation(0.1, m=4), "step_size_only": True}, "for m = batch_size"),
        ({"perturbation": Perturbation(source="random"), "step_size_only": True}, "not a random"),
        (
            {"perturbation": Perturbation(0.1, source="previous"), "step_size_only": True},
            "not another batch",
        ),
        ({"perturbation": Perturbation(0.1, normalize=False, project=True)}, "project is for"),
        (
            {"perturbation": Perturbation(0.1, m=3, normalize=False, share_of_batch=True)},
            "an m that divides 128",
        ),
        ({"epochs": 0}, "must be positive"),
        ({"epochs": 2.5}, "epochs=2.5: pass an integer"),
        ({"batch_size": 8.0}, "batch_size=8.0: pass an integer"),
        ({"seed": 0.5}, "seed=0.5: pass an integer"),
        ({"seed": None}, "seed=None: pass an integer"),
        ({"seed": -1}, "seed=-1, momentum=0.9: pass 0 or more"),
        ({"momentum": -0.1}, "momentum=-0.1: pass 0 or more"),
        ({"momentum": math.nan}, "momentum=nan: pass a finite"),
        ({"learning_rate": math.inf}, "learning_rate=inf: pass a finite"),
        ({"weight_decay": math.nan}, "weight_decay=nan: pass a finite"),
        ({"swa_from": 100}, "the last one is 99"),
        ({"swa_from": -1}, "swa_from=-1"),
        ({"swa_from": 1.5}, "swa_from=1.5"),
        ({"weight_decay": -1.0}, "at least 0"),
        ({"switch": ((1, {"epochs": 3}),)}, "pass a samkit.Perturbation"),
        ({"switch": ((0.5, Perturbation(0.1)),)}, "switch at epoch 0.5"),
        ({"switch": ((101, Perturbation(0.1)),)}, "switch at epoch 101 of 100"),
        ({"switch": ((1, Perturbation(0.1, m=129)),)}, "from 1 to 128"),
    ],
)
def test_bad_recipes_say_what_to_do(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_a_batch_larger_than_the_data_is_refused(examples):
    with pytest.raises(ValueError, match="batch_size=128 with 22 inputs"):
        fit(net(), Recipe(), examples)
