"""`python -m tools.microtest`."""

import sys

from tools.microtest import main

if __name__ == "__main__":
    sys.exit(main())
