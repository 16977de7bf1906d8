"""``python -m medrecon``."""

import sys

from medrecon.cli import main

sys.exit(main())
