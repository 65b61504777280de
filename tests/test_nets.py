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
