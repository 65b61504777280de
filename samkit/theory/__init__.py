"""Theorems as functions: what the paper's statements predict, to be held against what runs do.

``convergence``
    SAM on problems whose constants are known exactly, and the bounds of theorem T3.
``objectives``
    The maximum in SAM's objective where it is known exactly: quadratic losses.
``pac_bayes``
    The PAC-Bayes bounds behind the flat-minimum story, theorem T4.
``recovery``
    From the scale alpha of a diagonal network to the error of its solution.
``stability``
    The largest step size at which m-SAM stays at a minimum.
"""
