"""Entry point of ``python -m myllm`` and of ``torchrun -m myllm``."""

import sys

from myllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
