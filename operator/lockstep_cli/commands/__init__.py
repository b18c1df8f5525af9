"""One module a command; `lockstep_cli.app` names their functions."""
