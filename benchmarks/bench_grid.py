"""A grid of small networks as one computation against one network after the other.

    python -m benchmarks.bench_grid [--seeds 10] [--repeats 5]

`samkit.training.train` with all seeds at once, with one seed at a time, and `samkit.training.fit`,
which trains any network: an epoch of 31 steps on 4000 random signals, batch 128. Writes
results/bench_grid.json; a number is the ratio of medians.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.measure import interleaved, machine
from samkit import nets
from samkit.paper import records
from samkit.training import MLP, Rule, train
from samkit.training.fit import Recipe, fit

NETS = {"40-64-10": MLP(), "40-256-256-10": MLP((40, 256, 256, 10))}
RULES = {
    "ERM": (Rule("ERM"), Recipe(epochs=1)),
    "128-SAM": (Rule("m-SAM", 0.1), Recipe("SAM", rho=0.1, epochs=1)),
    "16-SAM": (Rule("m-SAM", 0.1, 16), Recipe("m-SAM", rho=0.1, m=16, epochs=1)),
    "1-SAM": (Rule("m-SAM", 0.1, 1), Recipe("m-SAM", rho=0.1, m=1, epochs=1)),
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
        for label, (rule, recipe) in RULES.items():

            def together(net=net, rule=rule):
                train(net, x, y, [rule], seeds, epochs=1)

            def alone(net=net, rule=rule):
                for seed in seeds:
                    train(net, x, y, [rule], [seed], epochs=1)

            def fitted(net=net, recipe=recipe):
                for _ in seeds:
                    fit(nets.mlp(*net.widths), recipe, examples)

            ways = {"together": together, "one by one": alone, "fit": fitted}
            seconds = interleaved(ways, args.repeats)
            row = {"net": name, "rule": label, "together_ms": 1e3 * seconds["together"]}
            row |= {f"{w} / together": seconds[w] / seconds["together"] for w in [*ways][1:]}
            rows.append(row)
            print(row, flush=True)
    records.save("bench_grid", result | {"rows": rows})


if __name__ == "__main__":
    main()
