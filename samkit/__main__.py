"""``python -m samkit``: the companion's commands (``samkit.paper.command_line``)."""

import sys

from samkit.errors import imported

if __name__ == "__main__":
    try:
        command_line = imported("samkit.paper.command_line")
    except ImportError as error:
        print(f"samkit: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(command_line.main())
