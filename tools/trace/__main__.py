import sys

from tools.trace import main

sys.exit(main())
