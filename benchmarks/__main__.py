"""`python -m benchmarks` compares; without arguments, in a short form that needs no peers."""

import sys

from benchmarks.compare import main

main(sys.argv[1:] or ["short", "--rounds", "2", "--steps", "10"])
