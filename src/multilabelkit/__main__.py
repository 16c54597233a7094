"""``python -m multilabelkit`` is the ``multilabelkit`` command."""

import sys

from multilabelkit.cli import main

sys.exit(main())
