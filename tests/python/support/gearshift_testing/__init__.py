"""Tests that need several processes: cases that all processes of a job run, one job for many cases.

A *case* is a function in a file of its own (not a test file), registered by :func:`case`. All
processes of a job run it; what it asserts on any rank is reported for that case alone. Starting a
process that imports torch takes seconds, so one job runs all cases of a file, one after another,
and its processes are forks of one that has imported it, or NumPy alone (`template.py`).

A test file asks for the outcome::

    CASES = Path(__file__).with_name("collective_cases.py")

    @pytest.mark.parametrize(("world", "name"), grid(CASES))
    def test_collectives(world, name):
        check(CASES, name, world)
"""

from .cases import case
from .jobs import check, grid, run_script

__all__ = ["case", "check", "grid", "run_script"]
