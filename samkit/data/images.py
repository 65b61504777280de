"""CIFAR-10, CIFAR-100 (Krizhevsky, 2009) and SVHN (Netzer et al., 2011) in their original files.

A folder that holds the files is read as it is; its files may differ from the published ones, and
then ``Dataset.source`` says so. Without a folder the files are downloaded once into the user's
cache folder, and must be the published ones.

The CIFAR files are pickles, which can run any code. They are read by an unpickler that knows numpy
arrays and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samkit.data.dataset import Dataset, cache_folder, from_pixels, needed, write_whole


@dataclass(frozen=True)
class Published:
    """Where a data set is, as {address: MD5}, and the files it comes as, as {path: MD5}."""

    addresses: dict[str, str]
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]  # the names of the classes, if they have a file
    labels: bytes = b""  # what a CIFAR file calls its labels; their names: this, as label_names

    @property
    def files(self) -> dict[str, str]:
        return self.train | self.test | self.meta


_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_SVHN = "http://ufldl.stanford.edu/housenumbers/"

PUBLISHED = {
    "cifar10": Published(
        addresses={_CIFAR + "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        train={
            "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
            "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
            "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e"},
        meta={"cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        labels=b"labels",
    ),
    "cifar100": Published(
        addresses={_CIFAR + "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
        train={"cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta={"cifar-100-python/meta": "7973b15100ade9c7d40fb424638fde48"},
        labels=b"fine_labels",
    ),
    "svhn": Published(
        addresses={
            _SVHN + "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            _SVHN + "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        },
        train={"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373"},
        test={"test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"},
        meta={},
    ),
}


def read(name: str, folder: Path | None, seed: int) -> Dataset:
    """``samkit.data.load`` for the three data sets of this module."""
    published, place = PUBLISHED[name], (folder or cache_folder()).expanduser()
    missing = [file for file in published.files if not (place / file).is_file()]
    if missing and folder is None:
        _download(name, place)
    elif missing:
        raise FileNotFoundError(
            f"{name} is read from {place}, but there is no {', '.join(missing)}: unpack "
            f"{' and '.join(published.addresses)} there, or leave out the folder (and unset "
            "SAMKIT_DATA) to download it"
        )
    files = _Files(name, place, from_cache=folder is None)
    classes = files.classes()
    return from_pixels(
        files.images(published.train, len(classes)),
        files.images(published.test, len(classes)),
        largest=255,
        seed=seed,
        classes=classes,
        source=files.source(),
    )


class _Files:
    """The files of one data set in one place; remembers the checksum of what it has read."""

    def __init__(self, name: str, place: Path, *, from_cache: bool) -> None:
        self.name, self.place, self.from_cache = name, place, from_cache
        self.published = PUBLISHED[name]
        self.md5: dict[str, str] = {}

    def images(self, files: Iterable[str], classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (n, 3, 32, 32), uint8, and labels (n,) of these files, one after the other."""
        pixels, labels = zip(*(self._images(file, classes) for file in files), strict=True)
        return np.concatenate(pixels), np.concatenate(labels)

    def _images(self, file: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
        content = self._content(file)
        try:
            if self.name == "svhn":
                pixels, labels = _svhn(content)
            else:
                pixels, labels = _cifar(content, self.published.labels)
            rows = (len(labels), 3, 32, 32)
            if pixels.dtype != np.uint8 or pixels.shape != rows or labels.ndim != 1:
                raise ValueError(f"pixels {pixels.dtype} {pixels.shape}, labels {labels.shape}")
            if not ((labels >= 0) & (labels < classes)).all():
                raise ValueError(f"labels that are not one of {classes} classes")
        except Exception as error:  # a damaged file can break its reader in any way
            raise self._unreadable(file, f"{type(error).__name__}: {error}") from error
        return pixels, labels

    def classes(self) -> tuple[str, ...]:
        if not self.published.meta:
            return tuple(str(digit) for digit in range(10))
        (file,) = self.published.meta
        content = self._content(file)
        try:
            names = _Arrays(content).load()[self.published.labels[:-1] + b"_names"]
            return tuple(name.decode() for name in names)
        except Exception as error:
            raise self._unreadable(file, f"{type(error).__name__}: {error}") from error

    def source(self) -> str:
        """Which copy this is; a copy of one's own has a checksum over its files as its name."""
        if self.md5 == self.published.files:
            return f"{self.name}, the published files"
        own = hashlib.md5("".join(self.md5[file] for file in self.published.files).encode())
        return f"{self.name}, a copy that differs from the published files (MD5 {own.hexdigest()})"

    def _content(self, file: str) -> bytes:
        content = (self.place / file).read_bytes()
        self.md5[file] = hashlib.md5(content).hexdigest()
        if self.from_cache and self.md5[file] != self.published.files[file]:
            raise self._unreadable(file, f"MD5 {self.md5[file]}")
        return content

    def _unreadable(self, file: str, reason: str) -> ValueError:
        cure = (
            "delete it, and the next call fetches it anew"
            if self.from_cache
            else f"put the one from {' or '.join(self.published.addresses)} in its place"
        )
        return ValueError(
            f"{self.place / file} is damaged, or not a file of {self.name} ({reason}): {cure}"
        )


_ARRAY = {  # what a pickled array is made of, before and since numpy 2
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy.core.numeric", "_frombuffer"): np.empty(0).__reduce_ex__(5)[0],
}


class _Arrays(pickle.Unpickler):
    """Reads dictionaries, lists, strings, numbers and numpy arrays; anything else is refused.

    Strings of Python 2, which wrote the published files, become bytes.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")

    def find_class(self, module: str, name: str) -> object:
        try:
            return _ARRAY[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}: refused") from None


def _cifar(content: bytes, labels: bytes) -> tuple[np.ndarray, np.ndarray]:
    """One row an image: 1024 red values, then green, then blue."""
    batch = _Arrays(content).load()
    return batch[b"data"].reshape(-1, 3, 32, 32), np.array(batch[labels], dtype=np.int64)


def _svhn(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """X is (32, 32, 3, n), y (n, 1), and the digit 0 has the label 10."""
    from scipy.io import loadmat

    mat = loadmat(io.BytesIO(content), variable_names=["X", "y"])
    pixels = np.ascontiguousarray(mat["X"].transpose(3, 2, 0, 1))
    labels = mat["y"].astype(np.int64)[:, 0]
    if not ((labels >= 1) & (labels <= 10)).all():
        raise ValueError("labels other than 1, ..., 10")
    return pixels, labels % 10


def _download(name: str, place: Path) -> None:
    """Fetch and unpack the published files, with a progress bar and a check of the MD5."""
    pooch, errors = needed("pooch"), needed("requests.exceptions")
    needed("tqdm")
    published = PUBLISHED[name]
    by_hand = (
        f"or put {', '.join(published.files)} into a folder yourself, from "
        f"{' and '.join(published.addresses)}, and pass load({name!r}, folder=...) or set "
        "SAMKIT_DATA"
    )
    for address, md5 in published.addresses.items():
        try:
            file = pooch.retrieve(
                address,
                known_hash=f"md5:{md5}",
                fname=address.rpartition("/")[2],
                path=place,
                downloader=pooch.HTTPDownloader(progressbar=True),
            )
            if file.endswith(".tar.gz"):
                _unpack(Path(file), published.files)
        except errors.RequestException as error:
            raise ConnectionError(
                f"{address} cannot be downloaded ({error}): try again with a network, {by_hand}"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"what came from {address} is not the published file ({error}); it was not kept: "
                f"try again, {by_hand}"
            ) from error
        except OSError as error:
            raise OSError(
                error.errno,
                f"{address} cannot be written to {place} ({error}): make room or give access "
                f"there, {by_hand}",
            ) from error


def _unpack(archive: Path, files: Collection[str]) -> None:
    """Put these files of an archive beside it, each one whole or not at all."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name in files and (content := tar.extractfile(member)):
                write_whole(archive.parent / member.name, content.read())
