"""A flow of Python that says when its first line ran: for Prefect's own worker, and served by this program.

Usage: prefect_flows.py DEPLOYMENT
"""

import sys
import time
from pathlib import Path

from prefect import flow


@flow(name="first-instruction-python")
def first_instruction(folder: str, name: str, seconds: float = 0) -> None:
    """Writes the time of its first line into a file, then sleeps."""
    at = time.time()
    Path(folder, name).write_text(f"{at}\n")
    time.sleep(seconds)


if __name__ == "__main__":
    first_instruction.serve(name=sys.argv[1])
