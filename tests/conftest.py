"""Settings that must be in force before torch is loaded."""

import os

# On shared cores OpenMP's waiting threads would burn the time that the working ones need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, a core for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
