import numpy as np
import pytest

from samkit import Perturbation
from samkit.paper import records
from samkit.paper.experiments import classify, switches
from samkit.training import Recipe


@pytest.mark.parametrize("scale", ["ci", "paper"])
def test_every_switch_has_a_name_of_its_own(scale):
    names = [
        (switches.switch(plain), *classify.setting(plain["recipes"][-1]).values())
        for plain in map(records.plain, switches.configs(scale, (0,)))
    ]
    assert len(set(names)) == len(names)
    words = {name for name, *_ in names}
    assert {"unnormalized", "3 ascent steps", "previous batch", "independent batch"} <= words
    assert {"step size only", "softplus", "SWA, then SAM", "as it is"} <= words


def test_averaged_weights_are_one_end_of_their_line():
    first = Recipe(epochs=3, batch_size=500, swa_from=1)
    then = Recipe(Perturbation(0.1), epochs=1, batch_size=500)
    config = classify.small(first, then, seed=0)
    found = classify.run(config)
    line, swa = found["line"], found["swa_line"]
    at_zero, at_one = line["t"].index(0.0), line["t"].index(1.0)
    assert swa["test_error"][at_one] == line["test_error"][at_one]
    assert swa["train_loss"][at_zero] != line["train_loss"][at_zero]
    record = {"config": records.plain(config), "seed": 0, "metrics": records.plain(found)}
    table = switches.runs([record])
    assert table["switch"].tolist() == ["SWA, then SAM"]
    assert table["averaged"].tolist() == [swa["test_error"][at_zero]]
    (row,) = switches.summary([record]).to_dict("records")
    assert row["averaged"] == f"{swa['test_error'][at_zero]:.3f}"  # one seed has no interval


def test_softplus_networks_are_smooth():
    import torch

    net = classify.build("softplus:20 mlp 4 8 2", 0)
    relu = classify.build("mlp 4 8 2", 0)
    x = torch.linspace(-1, 1, 12).view(3, 4)
    assert torch.equal(net[0].weight, relu[0].weight)  # the same start
    gap = (net(x) - relu(x)).abs().max()
    assert 0 < gap < 8 * np.log(2) / 20  # softplus exceeds ReLU by at most log(2) / beta
