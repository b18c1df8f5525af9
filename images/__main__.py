"""`python -m images`: the command line of `images.cli`."""

import sys

from images.cli import main

sys.exit(main())
