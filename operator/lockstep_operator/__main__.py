"""`python3 -m lockstep_operator`: the operator image's entry point."""

from lockstep_operator.app import main

main()
