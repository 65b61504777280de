"""Random crops and flips of a whole batch at once, on the device it is on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def crop_and_flip(
    images: Tensor, *, generator: torch.Generator, padding: int = 4, flip: bool = True
) -> Tensor:
    """Shift each image by up to ``padding`` pixels, zeros moving in, and mirror half of them.

    Images (n, c, h, w) of any type; the result is a new tensor of the same shape. Each image is
    padded by zeros, cut back to (h, w) at an offset drawn uniformly from 0, ..., 2 padding, rows
    and columns on their own, and then, if ``flip``, mirrored left to right with probability 1/2:
    the augmentation of the paper, which does not flip SVHN. The generator must be on the device of
    the images; nothing waits for the device.

    Raises ValueError for images of another shape, a negative padding, or a generator elsewhere.
    """
    if images.ndim != 4:
        raise ValueError(f"images {tuple(images.shape)}: pass a batch (n, channels, height, width)")
    if padding < 0:
        raise ValueError(f"padding={padding}: choose 0 or more pixels")
    if generator.device.type != images.device.type:
        raise ValueError(
            f"the generator is on {generator.device}, the images on {images.device}: make it "
            f"by torch.Generator({str(images.device)!r})"
        )
    import torch

    offsets, mirrored = draw(images, generator, padding, flip)
    (n, c, h, w), device = images.shape, images.device
    rows = offsets[0, :, None] + torch.arange(h, device=device)
    across = torch.arange(w, device=device)
    columns = offsets[1, :, None] + torch.where(mirrored[:, None], across.flip(0), across)
    padded = torch.nn.functional.pad(images, [padding] * 4).flatten(2)
    pixels = rows[:, :, None] * (w + 2 * padding) + columns[:, None, :]
    return padded.gather(2, pixels.view(n, 1, -1).expand(-1, c, -1)).view(n, c, h, w)


def draw(
    images: Tensor, generator: torch.Generator, padding: int, flip: bool
) -> tuple[Tensor, Tensor]:
    """Offsets (2, n) of rows and columns, and which of the n images are mirrored."""
    import torch

    n, device = len(images), images.device
    offsets = torch.randint(2 * padding + 1, (2, n), generator=generator, device=device)
    mirrored = torch.rand(n, generator=generator, device=device) < (0.5 if flip else 0.0)
    return offsets, mirrored
