"""Makes the modules beside the tests importable for them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
