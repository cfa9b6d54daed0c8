"""``python -m omfuse.sim.atc``: the program behind the launcher of the simulated toolchain."""

import sys

from omfuse.sim.atc.main import run

sys.exit(run())
