"""``gearshift calibrate``: measures this machine, or a job's hosts, and writes a cluster file.

docs/calibration.md describes the method.
"""

from __future__ import annotations
