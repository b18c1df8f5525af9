"""What an apiserver checks of a FederatedJob, without one: the CRD's schema and CEL rules.

Called by `lockstep validate` and the simulator. Invariant: refuses what an apiserver refuses, in
its words.
"""
