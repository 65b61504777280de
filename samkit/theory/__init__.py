"""Theorems as functions: what the paper's statements predict, to be held against what runs do.

``convergence``
    SAM on problems whose constants are known exactly, and the bounds of theorem T3.
``objectives``
    The maximum in SAM's objective where it is known exactly: quadratic losses.
``pac_bayes``
    The PAC-Bayes bounds behind the flat-minimum story, theorem T4.
"""
