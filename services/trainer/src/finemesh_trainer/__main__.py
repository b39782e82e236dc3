"""`python -m finemesh_trainer`."""

import sys

from finemesh_trainer.cli import main

sys.exit(main())
