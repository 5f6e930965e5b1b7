"""Sentences: when, in which order, with what patience. The only place that knows prefect."""

import os

# Before prefect is imported: on a busy machine the server that it starts by itself needs longer than its 20 seconds
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
