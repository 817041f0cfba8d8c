"""One process of a job that runs cases: worker.py FILE CASE...

Prints one line of JSON per case, {"case": name, "problem": text}.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gearshift as gs
from gearshift_testing.cases import load


def main(path: str, names: list[str]) -> None:
    """Run the cases in turn; a broken session ends the process."""
    cases = {c.name: c for c in load(Path(path))}
    gs.init()
    for name in names:
        problem = ""
        started = time.monotonic()
        try:
            cases[name].run()
        except (gs.PeerLost, gs.TimeoutError):
            raise
        except Exception:
            problem = traceback.format_exc(limit=-6)
        seconds = round(time.monotonic() - started, 3)
        print(json.dumps({"case": name, "problem": problem, "seconds": seconds}), flush=True)
        gs.barrier()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
