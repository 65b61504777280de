"""SAM in loops of torch alone, and what torchrun starts: those and the frameworks'."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from frameworks.recipes import EXACT, batches, gap, net_of, plain_loop, recipe, trained

pytestmark = pytest.mark.long
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("clip", [float("inf"), 0.05])
def test_a_loop_of_ones_own(micro, clip):
    net, data = net_of(), batches()
    ema = recipe("plain")["train"](net, data, micro, clip)
    assert gap(net, trained(data, clip=clip)) < EXACT
    twin, average = net_of(), None
    for x, y in data:
        plain_loop(twin, [lambda x=x, y=y: F.cross_entropy(twin(x), y)], clip=clip)
        now = [p.detach().clone() for p in twin.parameters()]
        old = now if average is None else average
        average = [0.9 * a + 0.1 * n for a, n in zip(old, now, strict=True)]
    pairs = zip(ema.parameters(), average, strict=True)
    assert max((p - a).abs().max().item() for p, a in pairs) < EXACT


def test_bfloat16():
    net, data = net_of().float(), batches()
    recipe("plain")["train"](net, [(x.float(), y) for x, y in data], dtype=torch.bfloat16)
    assert 1e-6 < gap(net.double(), trained(data)) < 0.02


SCRIPT = """
    import os
    import sys
    import torch
    from frameworks.recipes import batches, net_of, recipe
    from torch.distributed.fsdp import fully_shard
    from torch.utils.data import DataLoader

    _, path, way = sys.argv
    torch.set_num_threads(1)
    net, data = net_of(), batches()
    examples = [(x[i], y[i]) for x, y in data for i in range(len(x))]
    loader = DataLoader(examples, batch_size=4)  # on each of the two ranks
    if way == "Lightning":
        import lightning

        rank = int(os.environ["RANK"])
        own = [e for k, e in enumerate(examples) if k // 4 % 2 == rank]  # Lightning would shuffle
        model = recipe("Lightning", lightning=lightning)["Classifier"](net)
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        options |= {"accelerator": "cpu", "strategy": "ddp", "devices": 2, "max_epochs": 1}
        options |= {"use_distributed_sampler": False}
        lightning.Trainer(**options).fit(model, DataLoader(own, batch_size=4))
    elif way == "accelerate":
        import accelerate

        recipe("accelerate")["train"](accelerate.Accelerator(cpu=True), net, loader)
    else:
        recipe("torchrun", fully_shard=fully_shard)["train"](net, data, way == "FSDP2")
    whole = {k: getattr(p, "full_tensor", lambda p=p: p)() for k, p in net.named_parameters()}
    if torch.distributed.get_rank() == 0:
        torch.save({k: p.detach() for k, p in whole.items()}, path)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("way", ["DDP", "FSDP2", "Lightning", "accelerate"])
def test_torchrun(way, tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*start, tmp_path / "train.py", tmp_path / "net.pt", way]
    paths = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    subprocess.run(command, check=True, timeout=540, env=os.environ | paths)
    net = net_of()
    net.load_state_dict(torch.load(tmp_path / "net.pt"))
    assert gap(net, trained(batches())) < EXACT
