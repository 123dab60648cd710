"""python -m tools.bisect"""

import sys

from tools.bisect import main

if __name__ == "__main__":
    sys.exit(main())
