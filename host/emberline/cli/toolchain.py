"""One sentence about what the RTL simulation lacks.

``python -m emberline.cli.toolchain`` prints it and exits with status 1 when something is missing.
"""

from __future__ import annotations

import sys


def missing_for_simulation() -> str | None:
    """What the RTL simulation lacks and how to install it; None when nothing is missing."""
    from emberline.simulation.toolchain import missing_tools

    missing = missing_tools()
    if not missing:
        return None
    return (
        f"RTL simulation is missing {'; '.join(missing)}. On Debian or Ubuntu, "
        "'sudo apt-get install g++ make perl python3-dev' has the system's part, 'make setup' the rest"
    )


def main() -> None:
    missing = missing_for_simulation()
    if missing:
        sys.exit(f"emberline: {missing}")


if __name__ == "__main__":
    main()
