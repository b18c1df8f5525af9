"""`python -m lockstep_cli`: the program without its scripts."""

from lockstep_cli.app import main

if __name__ == "__main__":
    main()
