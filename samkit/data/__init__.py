"""Data sets, label noise and augmentation.

- ``load("mnist1d")``: 40-point curves of ten classes, generated on this machine
  (:mod:`~samkit.data.mnist1d`)
- ``load("digits")``: 8 x 8 images that come with scikit-learn
- ``load("cifar10")``, ``load("cifar100")``, ``load("svhn")``: downloaded once, or read from a
  folder that holds them (:mod:`~samkit.data.images`)
- ``label_noise``: wrong labels, symmetric or asymmetric (:mod:`~samkit.data.noise`)
- ``crop_and_flip``: a whole batch at once, on its device (:mod:`~samkit.data.augment`)

Data sets are numpy arrays; only ``crop_and_flip`` needs torch, and takes it from its argument.
"""

from samkit.data.augment import crop_and_flip
from samkit.data.catalog import NAMES, load
from samkit.data.dataset import Dataset
from samkit.data.noise import label_noise

__all__ = ["NAMES", "Dataset", "crop_and_flip", "label_noise", "load"]
