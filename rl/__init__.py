"""Learning: RLlib algorithms, runners, rewards, evaluation."""

import os

# Ray reads these when it is imported, which only this package does. A local cluster then listens on loopback alone
# (the variable's name tells where that is Ray's default); a cluster that RAY_ADDRESS names stays as it is.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
