"""`python -m blip2tools` is the command `blip2tools`."""

import sys

from blip2tools.cli import main

sys.exit(main())
