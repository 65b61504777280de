"""SAM under the Trainer of transformers, and under accelerate."""

from __future__ import annotations

import accelerate
import pytest
import torch
import torch.nn.functional as F
import transformers
from frameworks.recipes import EXACT, LR, batches, gap, net_of, plain_loop, recipe, trained
from torch.utils.data import DataLoader

from samkit import SAM

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def fresh():
    """accelerate keeps its settings in one place for the whole process."""
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    sizes |= {"vocab_size": 20, "num_hidden_layers": 1, "num_labels": 3}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**sizes, **off, max_position_embeddings=6)
    return transformers.BertForSequenceClassification(config).double()


def texts(n=32):
    torch.manual_seed(2)
    pairs = zip(torch.randint(20, (n, 6)), torch.randint(3, (n,)), strict=True)
    return [{"input_ids": t, "labels": y} for t, y in pairs]


def arguments(folder, **options):
    quiet = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "seed": 0}
    quiet |= {"use_cpu": True, "disable_tqdm": True, "num_train_epochs": 1}
    sizes = {"per_device_train_batch_size": 8, "learning_rate": LR, "max_grad_norm": 0.0}
    sizes |= {
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
    }
    return transformers.TrainingArguments(str(folder), **quiet | sizes | options)


@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_the_trainer(tmp_path, clip):
    made = recipe("Trainer", transformers=transformers)["SAMTrainer"]
    net, twin, data = bert(), bert(), texts()
    made(net, arguments(tmp_path, max_grad_norm=clip), train_dataset=data).train()
    parts = [data[i : i + 8] for i in range(0, 32, 8)]

    def loss_of(part):
        tokens = torch.stack([d["input_ids"] for d in part])
        return lambda: twin(tokens, labels=torch.stack([d["labels"] for d in part])).loss

    plain_loop(twin, map(loss_of, parts), clip=clip or float("inf"))
    assert gap(net, twin) < EXACT
    assert gap(net, bert()) > 1e-3


def test_the_trainer_in_bfloat16(tmp_path):
    made, nets = recipe("Trainer", transformers=transformers)["SAMTrainer"], []
    for half in (False, True):
        nets.append(bert().float())
        made(nets[-1], arguments(tmp_path, bf16=half), train_dataset=texts()).train()
    assert 1e-6 < gap(*nets) < 0.02


def test_the_trainer_resumes_bit_for_bit(tmp_path):
    made = recipe("Trainer", transformers=transformers, rho=0.1)["SAMTrainer"]
    options = {"optim": "adamw_torch", "learning_rate": 0.01, "save_strategy": "epoch"}
    options |= {"num_train_epochs": 2}
    nets = bert(), bert()
    whole = made(nets[0], arguments(tmp_path, **options), train_dataset=texts())
    whole.train()
    half = made(nets[1], arguments(tmp_path, **options), train_dataset=texts())
    half.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert gap(*nets) == 0
    assert whole.sam.steps == half.sam.steps == 8


def test_accumulation_by_the_trainer_is_refused(tmp_path):
    made = recipe("Trainer", transformers=transformers)["SAMTrainer"]
    options = arguments(tmp_path, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="accumulation"):
        made(bert(), options, train_dataset=texts()).train()


def loader(data):
    return DataLoader([(x[i], y[i]) for x, y in data for i in range(len(x))], batch_size=8)


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_accelerate(micro):
    net, data = net_of(), batches()
    accelerator = accelerate.Accelerator(cpu=True)
    recipe("accelerate")["train"](accelerator, net, loader(data), micro)
    assert gap(net, trained(data)) < EXACT


def test_accumulation_by_accelerate_is_refused():
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    net = net_of()
    opt = SAM(torch.optim.SGD(net.parameters(), lr=LR))
    net, opt, data = accelerator.prepare(net, opt, loader(batches()))
    with pytest.raises(ValueError, match="gradient_accumulation_steps=1"):
        for x, y in data:
            with accelerator.accumulate(net):

                def closure(x=x, y=y):
                    opt.zero_grad()
                    accelerator.backward(F.cross_entropy(net(x), y))

                opt.step(closure)
