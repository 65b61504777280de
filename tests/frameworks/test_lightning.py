"""SAM and m-SAM under Lightning."""

from __future__ import annotations

import lightning
import pytest
import torch
import torch.nn.functional as F
from frameworks.recipes import EXACT, RHO, batches, gap, net_of, recipe, trained
from oracle import dense
from torch.utils.data import DataLoader

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),  # Lightning's, on workers, logs and checkpoints
]


def loader(data):
    return DataLoader([(x[i], y[i]) for x, y in data for i in range(len(x))], batch_size=8)


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    return lightning.Trainer(**quiet | options)


@pytest.mark.parametrize("name", ["Lightning", "Lightning, manual"])
def test_the_weights_are_those_of_the_plain_loop(name):
    data = batches()
    model = recipe(name, lightning=lightning)["Classifier"](net_of())
    trainer().fit(model, loader(data))
    assert gap(model.net, trained(data)) < EXACT


def test_clipping_is_lightnings_own():
    data = batches()
    model = recipe("Lightning", lightning=lightning)["Classifier"](net_of())
    trainer(gradient_clip_val=0.05).fit(model, loader(data))
    assert gap(model.net, trained(data, clip=0.05)) < EXACT
    assert gap(model.net, trained(data)) > 1e-3


def test_bfloat16():
    data = batches()
    model = recipe("Lightning", lightning=lightning)["Classifier"](net_of().float())
    data32 = [(x.float(), y) for x, y in data]
    trainer(precision="bf16-mixed").fit(model, loader(data32))
    assert 1e-6 < gap(model.net.double(), trained(data)) < 0.02


def test_accumulation_by_lightning_is_refused():
    model = recipe("Lightning", lightning=lightning)["Classifier"](net_of())
    with pytest.raises(ValueError, match="framework's own accumulation off"):
        trainer(accumulate_grad_batches=2).fit(model, loader(batches()))


def test_a_checkpoint_resumes(tmp_path):
    data = batches()
    make = recipe("Lightning", lightning=lightning)["Classifier"]
    first = trainer(max_epochs=1)
    first.fit(make(net_of()), loader(data))
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = make(net_of(1))
    trainer(max_epochs=2).fit(again, loader(data), ckpt_path=tmp_path / "half.ckpt")
    assert gap(again.net, trained(data + data)) < EXACT


def test_m_sam():
    data = batches()
    model = recipe("Lightning, m-SAM", lightning=lightning)["Classifier"](net_of())
    trainer().fit(model, loader(data))
    net = net_of()
    for x, y in data:
        losses = lambda z, y: F.cross_entropy(z, y, reduction="none")  # noqa: E731
        g = dense(net, losses, x, y, rho=RHO, m=2)
        with torch.no_grad():
            for k, p in net.named_parameters():
                p -= 0.1 * g[k]
    assert gap(model.net, net) < EXACT
