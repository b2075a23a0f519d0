"""`python -m pykcm` is pykcmd."""

import sys

from pykcm.programs import pykcmd as main

if __name__ == "__main__":
    sys.exit(main())
