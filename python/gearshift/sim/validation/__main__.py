"""``python -m gearshift.sim.validation [--quick]``: what ``make validate`` runs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from ...bench.hosts import NamespaceError
from ...errors import Error
from ..processes import Pool
from .cases import CELLS, QUICK, Cell, calibrating, configurations
from .figures import summary
from .fit import fit
from .measure import measure
from .model import predict
from .quiet import wait_until_quiet
from .report import write
from .winners import cell_winners

MEASURED = "measured.json"
_ATTEMPTS = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="gearshift.sim.validation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes: two cells")
    parser.add_argument("--out", type=Path, default=Path("runs/validate"))
    names = [cell.name for cell in CELLS]
    parser.add_argument("--cell", action="append", choices=names, help="only this cell (repeat)")
    parser.add_argument("--again", action="store_true", help="use what was measured before")
    parser.add_argument("--publish", action="store_true", help="write docs and accuracy.json, too")
    options = parser.parse_args()
    wanted = options.cell or (QUICK if options.quick else names)
    cells = [cell for cell in CELLS if cell.name in wanted]
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        measured = _measure_all(cells, options.out / MEASURED, options.again)
        document = _compare(cells, measured)
    except NamespaceError as error:
        print(f"validate: {error}; it needs root on Linux", file=sys.stderr)
        return 2
    except Error as error:
        print(f"validate: {error}", file=sys.stderr)
        return 1
    document["seconds"] = round(time.monotonic() - began, 1)
    print(write(document, options.out, options.publish))
    return 0


def _measure_all(cells: list[Cell], path: Path, again: bool) -> dict[str, Any]:
    measured: dict[str, Any] = json.loads(path.read_text()) if again and path.exists() else {}
    for cell in cells:
        if cell.name in measured:
            continue
        idle = wait_until_quiet()
        print(
            f"measuring {cell.name} ({100 * idle:.0f} % idle): {', '.join(cell.strategies)}",
            flush=True,
        )
        measured[cell.name] = _measure(cell)
        path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    return measured


def _measure(cell: Cell) -> dict[str, Any]:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return measure(cell)
        except NamespaceError:
            raise
        except Error as error:
            if attempt == _ATTEMPTS:
                raise
            print(f"once more, for {error}", file=sys.stderr)
    raise AssertionError


def _compare(cells: list[Cell], measured: dict[str, Any]) -> dict[str, Any]:
    rows = configurations(cells)
    real = {row.name: measured[row.cell.name][row.strategy]["seconds"] for row in rows}
    used = calibrating(rows)
    pool = Pool()
    fitted = fit(
        [row for row in rows if row.name in used], real, pool, lambda s: print(s, flush=True)
    )
    predicted = predict(rows, fitted, pool)
    error = {name: predicted[name] / real[name] - 1 for name in real}
    return {
        "parameters": fitted.to_dict(),
        "calibrated": summary([error[n] for n in used]),
        "judged": summary([e for n, e in error.items() if n not in used]),
        "winners": cell_winners(rows, real, predicted),
        "rows": [
            {
                "cell": row.cell.name,
                "workload": row.cell.workload,
                "strategy": row.strategy,
                "half": "calibrate" if row.name in used else "judge",
                "measured": real[row.name],
                "spread": measured[row.cell.name][row.strategy]["spread"],
                "simulated": predicted[row.name],
                "error": error[row.name],
            }
            for row in rows
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
