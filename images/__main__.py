"""`python -m images`: the command line of `images.cli`, which ends with the make that began it."""

import sys

from images.alone import end_with_starter
from images.cli import main

end_with_starter()
sys.exit(main())
