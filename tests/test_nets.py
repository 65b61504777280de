import pytest
import torch

from samkit import nets


def counted(width, blocks, classes, norm=True):
    """Parameters of the authors' network, added up layer by layer from its description."""
    total, inputs = 3 * 9 * width, width
    for stage, number in enumerate(blocks):
        outputs = width * 2**stage
        for block in range(number):
            total += 9 * inputs * outputs + 9 * outputs * outputs  # two convolutions, no biases
            if norm:
                total += 2 * inputs + 2 * outputs  # scale and shift of each norm
            if inputs != outputs or (stage > 0 and block == 0):
                total += inputs * outputs  # the 1x1 projection
            inputs = outputs
    if norm:
        total += 2 * inputs
    return total + inputs * classes + classes


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize(
    ("depth", "width", "classes", "blocks"),
    [
        ("tiny", 8, 10, (1, 1, 1, 1)),
        ("18", 64, 10, (2, 2, 2, 2)),
        ("34", 16, 100, (3, 4, 6, 3)),
    ],
)
def test_parameter_counts_are_the_authors(depth, width, classes, blocks, norm):
    net = nets.resnet(depth, width=width, classes=classes, norm=norm)
    assert nets.parameter_count(net) == counted(width, blocks, classes, norm != "none")


def test_resnet18_has_eleven_million():
    assert (
        nets.parameter_count(nets.resnet()) == 11_172_170
    )  # with the final BatchNorm (2 x 512), which other versions leave out


@pytest.mark.parametrize("norm", nets.NORMS)
@pytest.mark.parametrize("softplus", [None, 10.0])
def test_shapes(norm, softplus):
    net = nets.resnet("tiny", width=4, classes=7, norm=norm, softplus=softplus)
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_the_convolutions_start_by_kaimings_rule():
    torch.manual_seed(0)
    conv = nets.resnet("tiny", width=32)[0].weight
    assert conv.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.1)


def test_softplus_is_relu_in_the_limit():
    z = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(nets.Softplus(1e4)(z), z.relu(), atol=1e-4, rtol=0)
    assert nets.Softplus(2.0)(torch.zeros(1)).item() == pytest.approx(0.5 * 0.693147, rel=1e-4)


def test_the_one_hidden_layer_net_is_its_formula():
    net = nets.OneHiddenLayer(5, torch.Generator().manual_seed(0))
    x = 0.3
    expected = sum(
        a * max(0.0, w * x + b)
        for w, b, a in zip(net.w.tolist(), net.b.tolist(), net.a.tolist(), strict=True)
    )
    assert net(torch.tensor([[x]])).item() == pytest.approx(expected, rel=1e-5)
    assert set(net.w.abs().tolist()) == {2.5}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nets.resnet("50"), "depth='50': pass one of tiny, 18, 34"),
        (lambda: nets.resnet(norm="layer"), "norm='layer'"),
        (lambda: nets.resnet(width=5, norm="group"), "pass an even width"),
        (lambda: nets.mlp(3), "at least the inputs and the outputs"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def by_the_formulas(net, x, width, norm):
    """The tiny ResNet, written down from its description, with the weights of ``net``."""
    state = net.state_dict()

    def normed(x, name):
        scale, shift = state[f"{name}.weight"], state[f"{name}.bias"]
        if norm == "batch":
            mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
            mean, variance = mean[:, None, None], variance[:, None, None]
        else:  # over the channels of a group and all pixels
            parts = x.reshape(len(x), width // 2, -1, *x.shape[2:])
            mean = parts.mean((2, 3, 4), keepdim=True).expand_as(parts).reshape(x.shape)
            variance = parts.var((2, 3, 4), keepdim=True, correction=0)
            variance = variance.expand_as(parts).reshape(x.shape)
        x = (x - mean) / (variance + 1e-5).sqrt()
        return x * scale[:, None, None] + shift[:, None, None]

    def conv(x, name, stride=1):
        kernel = state[f"{name}.weight"]
        return torch.nn.functional.conv2d(x, kernel, None, stride, (kernel.shape[2] - 1) // 2)

    x = conv(x, "0")
    for stage in range(4):
        stride = 2 if stage else 1
        a = normed(x, f"{stage + 1}.norm1").relu()
        straight = conv(a, f"{stage + 1}.project", stride) if stage else x
        inner = normed(conv(a, f"{stage + 1}.conv1", stride), f"{stage + 1}.norm2").relu()
        x = straight + conv(inner, f"{stage + 1}.conv2")
    x = normed(x, "5").relu().mean((2, 3))
    return x @ state["9.weight"].T + state["9.bias"]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_network_is_the_one_described(norm):
    """Norm, activation, convolution; a projection of the ACTIVATION where shapes change."""
    torch.manual_seed(0)
    width = 8  # GroupNorm has four groups, not two
    net = nets.resnet("tiny", width=width, norm=norm).double()
    for p in (p for m in net.modules() for n, p in m.named_parameters(recurse=False)):
        if p.dim() == 1:  # scales and shifts that are no ones and zeros
            torch.nn.init.uniform_(p, 0.5, 1.5)
    x = torch.rand(6, 3, 16, 16, dtype=torch.float64)
    if norm == "batch":
        net(x)  # statistics that are no zeros and ones
    net.eval()
    torch.testing.assert_close(net(x), by_the_formulas(net, x, width, norm))


@pytest.mark.parametrize("width", [4, 16])
def test_groupnorm_has_half_as_many_groups_as_the_width_in_every_stage(width):
    net = nets.resnet("18", width=width, norm="group")
    groups = {m.num_groups for m in net.modules() if isinstance(m, torch.nn.GroupNorm)}
    assert groups == {width // 2}


def test_the_start_of_the_head_and_of_the_network_of_figure_7():
    torch.manual_seed(0)
    assert (nets.resnet("tiny", width=4)[-1].bias == 0).all()
    net = nets.OneHiddenLayer(20_000)
    assert set(net.w.abs().tolist()) == {2.5} and abs(float(net.w.detach().mean())) < 0.1
    assert net.b.std().item() == pytest.approx(2.5, rel=0.03)
    assert net.a.std().item() == pytest.approx(4.0, rel=0.03)
