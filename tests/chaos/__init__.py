"""Faults for forwarders, and a checker of what readers saw meanwhile: `python -m tests.chaos --help`."""
