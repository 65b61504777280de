import pytest
import torch

from samkit.data import crop_and_flip
from samkit.data.augment import draw


def one_by_one(images, offsets, mirrored, padding):
    """The definition: each image on its own canvas of zeros, cut out, mirrored."""
    h, w = images.shape[2:]
    result = []
    for image, top, left, mirror in zip(images, *offsets.tolist(), mirrored.tolist(), strict=True):
        canvas = image.new_zeros(len(image), h + 2 * padding, w + 2 * padding)
        canvas[:, padding : padding + h, padding : padding + w] = image
        cut = canvas[:, top : top + h, left : left + w]
        result.append(torch.flip(cut, [2]) if mirror else cut)
    return torch.stack(result)


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (7, 1, 8, 6), (1, 2, 5, 9)])
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [True, False])
def test_it_is_the_loop_over_images(shape, padding, flip, device):
    images = torch.rand(shape, generator=seeded(1)).to(device)
    drawn = draw(images, seeded(device=device), padding, flip)
    expected = one_by_one(images, *drawn, padding)
    got = crop_and_flip(images, generator=seeded(device=device), padding=padding, flip=flip)
    assert torch.equal(got, expected)


def test_bytes_and_channels_last_are_moved_alike():
    images = (torch.rand(16, 3, 32, 32, generator=seeded(1)) * 255).byte()
    expected = one_by_one(images, *draw(images, seeded(), 4, True), 4)
    got = crop_and_flip(images.to(memory_format=torch.channels_last), generator=seeded())
    assert got.dtype == torch.uint8 and torch.equal(got, expected)


def test_what_is_drawn_is_uniform_and_independent():
    n = 40_000
    offsets, mirrored = draw(torch.empty(n), seeded(), 2, True)
    cells = torch.bincount(offsets[0] * 10 + offsets[1] * 2 + mirrored, minlength=50) / n
    assert len(cells) == 50
    assert (cells - 1 / 50).abs().max() < 5 * (0.02 * 0.98 / n) ** 0.5  # five standard errors


def test_the_images_and_the_global_generator_are_left_alone():
    images = torch.rand(4, 3, 8, 8)
    before, state = images.clone(), torch.get_rng_state()
    crop_and_flip(images, generator=seeded(), padding=0, flip=False).zero_()
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)


def test_two_calls_differ_and_a_seed_repeats():
    images, generator = torch.rand(32, 3, 8, 8), seeded()
    first = crop_and_flip(images, generator=generator)
    assert not torch.equal(crop_and_flip(images, generator=generator), first)
    assert torch.equal(crop_and_flip(images, generator=seeded()), first)


@pytest.mark.parametrize(
    ("images", "padding", "message"),
    [
        (torch.rand(4, 40), 4, r"images \(4, 40\): pass a batch"),
        (torch.rand(4, 3, 8, 8), -1, "padding=-1: choose 0 or more"),
        (torch.rand(4, 3, 8, 8, device="meta"), 4, r"make it by torch.Generator\('meta'\)"),
    ],
)
def test_bad_input(images, padding, message):
    with pytest.raises(ValueError, match=message):
        crop_and_flip(images, generator=seeded(), padding=padding)
