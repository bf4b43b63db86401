"""The numeric heart: pure functions of tensors, with no model, no file and no network in sight.

``hessian`` gathers second moments, ``obs`` orders the units of one reader, ``level_factor`` turns an order into the
weights and errors of every level, ``knapsack`` picks one level for each group under a budget, ``regression`` refits a
linear map from sums; ``hard_concrete`` and ``lagrangian`` are for gates that learn; ``readers``, ``saliency``, ``spd``
and ``side_by_side`` serve those.
"""
