"""`lockstep`, also `kubectl lockstep`: what people ask of jobs on a cluster, and without one.

Called by people and scripts. Reads the cluster through an ordinary kubeconfig; what it writes has a
field manager of its own. Invariant: every error that a person can mend is one line.
"""
