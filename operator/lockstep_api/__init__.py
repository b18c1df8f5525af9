"""The contract of Lockstep: the FederatedJob resource, what the planes say to each other, names.

Models and names only. Both planes import this package and it imports neither of them; it needs
nothing but pydantic.
"""
