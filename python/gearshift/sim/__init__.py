"""What a simulation of training is fed with. Nothing here needs torch or the compiled core."""

from __future__ import annotations
