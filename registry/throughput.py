"""How fast inference over new scenes was lately, out of the experiment runs that it writes."""

import time
from collections.abc import Mapping

from registry.tracking import connect, told

FIGURES = ("px_per_second", "km2_per_hour", "scenes", "failed")  # of a run over new scenes


def lately(hours: float = 24.0) -> dict[str, Mapping[str, float]]:
    """For each model version (`roofs@3`) the figures of its newest run of the last hours. Raises StoreError."""
    client = connect()
    since = int((time.time() - 3600 * hours) * 1000)
    with told():
        experiments = client.search_experiments(filter_string="name LIKE '% inference'")
        if not experiments:
            return {}
        runs = client.search_runs(
            [experiment.experiment_id for experiment in experiments],
            filter_string=f"attributes.start_time > {since} and metrics.px_per_second > 0",
            order_by=["attributes.start_time ASC"],
        )
    figures = {run.data.tags.get("dlpk.version", ""): run.data.metrics for run in runs}
    return {ref: {name: seen[name] for name in FIGURES if name in seen} for ref, seen in figures.items()}
