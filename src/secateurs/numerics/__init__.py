"""Numerical building blocks: functions of tensors and arrays, without models, files or network.

One-shot pruning: ``hessian`` accumulates second moments, ``obs`` orders the units of one output projection by least added
error (with ``saliency``, ``spd`` and ``unit_columns``), ``level_factor`` computes weight and error of every level of that
order, ``knapsack`` chooses one level of each group within a budget, ``regression`` refits a linear map, ``low_rank``
factorises a matrix. Learned masks: ``hard_concrete`` and ``lagrangian``. Support: ``divergence``, ``parallel_map``,
``precision`` and ``token_rows``.
"""
