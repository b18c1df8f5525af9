"""What is wrong with a cluster and what to do: looked at once (`look`), judged by pure checks.

`commands/doctor` calls it. Invariant: what cannot be seen is told as such, never as well or wrong.
"""
