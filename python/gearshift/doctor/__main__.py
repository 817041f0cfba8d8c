"""``python -m gearshift.doctor``: the doctor as one process of a job."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from .command import join


def main() -> int:
    parser = argparse.ArgumentParser(prog="gearshift.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--folder", type=Path, help="where the first process of a host writes its report"
    )
    arguments = parser.parse_args()
    try:
        return join(arguments.folder, arguments.json)
    except KeyboardInterrupt:  # while it waited for others
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
