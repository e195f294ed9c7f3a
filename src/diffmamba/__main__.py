"""`python -m diffmamba`, the same as the command `diffmamba`."""

import sys

from .cli import main

sys.exit(main())
