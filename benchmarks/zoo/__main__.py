"""Generate the zoo into a cache folder and measure omfuse on it.

python -m benchmarks.zoo                       # generate what is missing, then measure
python -m benchmarks.zoo --only timm --no-measure
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.zoo.generate import GROUPS, default_folder, generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--groups", default=",".join(GROUPS), help="comma-separated")
    parser.add_argument("--only", default="", help="ids that contain this text")
    parser.add_argument("--timeout", type=float, default=180, help="seconds for one export")
    parser.add_argument("--retry", action="store_true", help="try failed exports again")
    parser.add_argument("--no-measure", action="store_true", help="stop after generating")
    parser.add_argument("--python", default=sys.executable, help="interpreter that measures")
    arguments = parser.parse_args()
    if arguments.retry:
        (arguments.folder / "failures.json").unlink(missing_ok=True)
    made = generate(
        arguments.folder, arguments.groups.split(","), arguments.only, arguments.timeout
    )
    families = {case["family"] for case in made["cases"]}
    blocks = sum(case["expected"] for case in made["cases"])
    print(
        f"{len(made['cases'])} models of {len(families)} architectures, {blocks} true blocks "
        f"in {arguments.folder}; {len(made['failures'])} exports failed"
    )
    if not arguments.no_measure:
        command = [arguments.python, "-m", "benchmarks.coverage", "--corpus", arguments.folder]
        if arguments.only:
            command += ["--only", arguments.only]
        sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
