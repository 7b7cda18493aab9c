"""``python -m myllm``, which torchrun starts."""

import sys

from myllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
