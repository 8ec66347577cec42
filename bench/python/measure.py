"""Runs a command and prints one line of JSON: wall and CPU seconds of it with all its children, and peak memory.

Usage: measure.py PROGRAM [ARGUMENT ...]

The command's own stdout goes to stderr, so that stdout is the measurement alone. Peak memory is that of the largest
single process, in MB (10^6 bytes). The exit code is the command's.
"""

import json
import os
import resource
import subprocess
import sys
import time

before = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False).returncode
wall = time.perf_counter() - before
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
measured = {"wallSeconds": wall, "cpuSeconds": usage.ru_utime + usage.ru_stime, "peakMegabytes": usage.ru_maxrss * 1024 / 1e6}
print(json.dumps(measured))
sys.exit(code if code >= 0 else 128 - code)
