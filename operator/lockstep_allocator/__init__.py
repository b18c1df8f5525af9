"""Per-round CPU frequency allocation (CN113312169B; Zhan et al., IPDPS 2020).

Traces, the cost of a round, its hindsight optimum, baselines, the policy and its training. Pure
NumPy but for `training` (torch) and `cli`; the planner uses it without torch. Arrays are batched:
E environments × N devices. Units everywhere: s, GHz, Gcycles (10⁹ cycles), Mbit, Mbit/s, W, J.
"""
