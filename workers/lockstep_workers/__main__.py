"""`python3 -m lockstep_workers`: the worker image's entry point."""

from lockstep_workers.app import main

main()
