"""A grid of small networks as one computation against one network after the other.

    python -m benchmarks.bench_grid [--seeds 10] [--repeats 5]

`samkit.training.train_stack` with all seeds at once, with one seed at a time, and
`samkit.training.fit`, which trains any network: an epoch of 31 steps on 4000 random signals, batch
128. Writes results/bench_grid.json; a number is the ratio of medians.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.measure import interleaved, machine
from samkit import Perturbation, nets
from samkit.paper import records
from samkit.training import MLP, Recipe, fit, train_stack

NETS = {"40-64-10": MLP(), "40-256-256-10": MLP((40, 256, 256, 10))}
RULES = {
    "ERM": Perturbation(),
    "128-SAM": Perturbation(0.1),
    "16-SAM": Perturbation(0.1, m=16),
    "1-SAM": Perturbation(0.1, m=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4000, 40)), rng.integers(10, size=4000)
    examples = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    torch.set_num_threads(1)
    result = {"machine": machine(), "seeds": args.seeds, "repeats": args.repeats}
    seeds, rows = range(args.seeds), []
    for name, net in NETS.items():
        for label, rule in RULES.items():

            def together(net=net, rule=rule):
                train_stack(net, x, y, [rule], seeds, epochs=1)

            def alone(net=net, rule=rule):
                for seed in seeds:
                    train_stack(net, x, y, [rule], [seed], epochs=1)

            def fitted(net=net, rule=rule):
                for _ in seeds:
                    fit(nets.mlp(*net.widths), Recipe(rule, epochs=1), examples)

            ways = {"together": together, "one by one": alone, "fit": fitted}
            seconds = interleaved(ways, args.repeats)
            row = {"net": name, "rule": label, "together_ms": 1e3 * seconds["together"]}
            row |= {f"{w} / together": seconds[w] / seconds["together"] for w in [*ways][1:]}
            rows.append(row)
            print(row, flush=True)
    records.save("bench_grid", result | {"rows": rows})


if __name__ == "__main__":
    main()
