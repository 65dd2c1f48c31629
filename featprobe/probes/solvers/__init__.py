"""Solvers that certify what they found, so that a probe is its optimum and not where a solver happened to stop."""
