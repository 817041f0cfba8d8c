"""One process of a measured cell: ``python -m gearshift.study.train work.json [--trial]``.

Each worker of the job writes ``<rank>.json`` beside the file: the fields of
:class:`gearshift.torch._measured.Record`. Dedicated servers write nothing. A trial of a single
process writes ``trial-<number>.json``: the seconds that a step really takes, or what went wrong.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .._preload import TORCH, preload
from ..errors import Error
from ..sim.task import describe
from .work import Work


def main(path: Path, trial: bool) -> int:
    """The exit code: 1 when the reason for a failure lies in this process."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    rank = int(os.environ["GEARSHIFT_RANK"])
    if trial:
        _write(path.parent / f"trial-{rank}.json", _trial(fields))
    elif rank < fields["workers"]:
        preload(TORCH)
        from ..torch import _measured

        record = _measured.run(Work(**fields), rank)
        _write(path.parent / f"{rank}.json", asdict(record))
        if record.own_failure:
            print(record.failure, file=sys.stderr)
            return 1
    else:
        _serve()
    return 0


def _trial(fields: dict[str, Any]) -> dict[str, Any]:
    try:
        preload(TORCH)
        from ..torch import _measured

        return {"seconds": _measured.trial(Work(**fields)), "failure": None}
    except Error as error:
        return {"seconds": None, "failure": str(error)}
    except Exception as error:
        return {"seconds": None, "failure": describe(error)}


def _serve() -> None:
    """Until the workers are done; what went wrong is theirs to tell."""
    import gearshift as gs

    with suppress(Error):
        gs.init()


def _write(path: Path, document: dict[str, Any]) -> None:
    """For the process that started this one, which reads it when this one has ended."""
    path.write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--trial" in sys.argv[2:]))
