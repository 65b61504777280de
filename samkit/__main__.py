"""``python -m samkit``: the companion's commands (``samkit.paper.command_line``)."""

import sys

from samkit.paper.command_line import main

if __name__ == "__main__":
    sys.exit(main())
