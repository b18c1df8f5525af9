"""A real Kubernetes on one Linux machine, for tests and demos; run as `python -m tests.cluster`.

A cluster is a `Layout` (names, addresses, folders). `lifecycle` brings one up and down, `api` is
what pytest fixtures call, `cli` is what people and make call. Every driver ends in the same
contract: a kubeconfig, nodes labelled `lockstep.dev/tier=cloud|edge|device`, images
loadable by one command.
"""
