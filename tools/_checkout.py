"""What every tool does before it imports the package; importing this module does it."""

import os
import sys
import warnings
from pathlib import Path

# A checkout works without being installed, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# Read when torch is loaded: where other programs use the cores too, OpenMP's waiting threads would
# burn the very time that they wait for, and training would be several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# mmengine imports it, and its warning, once per module, would bury what we have to say.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
