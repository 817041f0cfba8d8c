"""The simulator against reality: paced jobs on network namespaces, the same simulated, compared.

``make validate`` runs it; docs/validation.md has the outcome, docs/calibration.md the method.
"""

from __future__ import annotations
