// Written by `python -m tools.interactive write` from the runs of chapter 12, by the protocol.
export const runs = [
  {"switch": "SAM as it is", "gain": 0.033022},
  {"switch": "unnormalized", "expected": "as good", "gain": 0.02619, "ten": [-0.010657, -0.003007], "sixty": [-0.003087, 0.001208]},
  {"switch": "3 ascent steps", "expected": "no better", "gain": 0.032652, "ten": [-0.007193, 0.006453]},
  {"switch": "10 ascent steps", "expected": "no better", "gain": 0.030648, "ten": [-0.008097, 0.003349]},
  {"switch": "softplus", "expected": "as good", "gain": 0.030468, "ten": [-0.013458, 0.00835]},
  {"switch": "previous batch", "expected": "lost", "gain": 0.018998, "ten": [-0.020853, -0.007195]},
  {"switch": "independent batch", "expected": "lost", "gain": 0.019042, "ten": [-0.019138, -0.008822], "sixty": [-0.01182, -0.007817]},
  {"switch": "step size only", "expected": "lost", "gain": -0.014432, "ten": [-0.059607, -0.035301]},
];
