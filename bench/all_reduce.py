"""gearshift's all-reduce from Python, for the comparison of collectives.

gearshift run -n 2 bench/all_reduce.py bytes=1048576 operations=100
"""

from __future__ import annotations

import numpy as np
from all_reduce_rounds import serve_all_reduce

import gearshift as gs
from gearshift.bench.gate import Gate


def allocate(count: int) -> tuple[np.ndarray, np.ndarray]:
    array = gs.zeros(count)
    return array, array


def main() -> None:
    gs.init()
    serve_all_reduce(Gate(gs.rank()), allocate, gs.all_reduce, gs.rank(), gs.world_size())


if __name__ == "__main__":
    main()
