"""Run the command line as ``python -m omfuse``."""

from omfuse.cli import main

if __name__ == "__main__":
    main()
