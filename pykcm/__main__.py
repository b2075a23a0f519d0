"""`python -m pykcm`: the daemon."""

import sys

from pykcm.daemon import main

sys.exit(main())
