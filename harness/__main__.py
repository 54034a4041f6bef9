import gc
import sys

from harness.cli import main

if __name__ == "__main__":
    gc.set_threshold(
        50_000
    )  # a log is thousands of records that all stay alive: searching them for cycles takes longer than reading them
    sys.exit(main(sys.argv[1:]))
