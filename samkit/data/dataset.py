"""What every data set looks like, how a validation part is held out, and where copies are kept."""

from __future__ import annotations

import importlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Inputs, float32, one example a row, and labels, int64, of three disjoint parts.

    Images are (examples, channels, height, width), with pixels in [0, 1] and no other
    normalization, as in the paper. Label c means ``classes[c]``. ``source`` says which copy of the
    data this is, for the records.
    """

    x: np.ndarray
    y: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    source: str


def from_pixels(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    largest: int,
    seed: int,
    classes: tuple[str, ...],
    source: str,
) -> Dataset:
    """Pixels 0, 1, ..., ``largest`` and labels become a data set; a tenth of train is held out."""
    pixels, labels = train
    held_out = validation_part(len(labels), seed)
    parts = (pixels[~held_out], labels[~held_out]), (pixels[held_out], labels[held_out]), test
    (x, y), (x_validation, y_validation), (x_test, y_test) = (
        (np.divide(x, largest, dtype=np.float32), y.astype(np.int64)) for x, y in parts
    )
    return Dataset(x, y, x_validation, y_validation, x_test, y_test, classes, source)


def validation_part(count: int, seed: int) -> np.ndarray:
    """A mask (count,) of the tenth, rounded down, that is held out for validation.

    Drawn with numpy's legacy generator, which never changes: the same examples under every
    version of numpy, and those that the authors' code holds out for this seed.
    """
    mask = np.zeros(count, dtype=bool)
    mask[np.random.RandomState(seed).permutation(count)[: count // 10]] = True
    return mask


def needed(module: str) -> ModuleType:
    """Import a module of the ``data`` extra, or say what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this data set needs a package that is not installed ({error.name}): "
            "pip install 'samkit[data]'"
        ) from error


def cache_folder() -> Path:
    """Where downloads and generated data are kept."""
    return Path(needed("platformdirs").user_cache_dir("samkit"))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary one: whoever reads it finds all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(content)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            file.close()
            os.unlink(file.name)
            raise
