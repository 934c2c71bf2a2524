"""MLflow's UI on the store in use."""

import os
import sys

from normstudy.tracking.client import Server
from normstudy.tracking.store import connect, experiment_name
from normstudy.tracking.ui import ADDRESS, charts, link


def serve() -> None:
    """Print the link to the chart view and become `mlflow ui`; of a server that runs already, print the link alone."""
    uri = connect()
    experiment = Server().experiment(experiment_name())
    if uri.startswith(("http://", "https://")):
        print(f"compare the runs: {link(experiment)}")
        return
    print(f"compare the runs: {ADDRESS}/{charts(experiment)}", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri])
