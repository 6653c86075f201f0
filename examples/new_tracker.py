"""A tracker of one's own: MLflow, as MLFLOW_TRACKING_URI says.

A study uses it with config.plugins = ("examples.new_tracker",) and config.track = ("mlflow",).
"""

from jaxdiff.trackers import Tracker, register_tracker


@register_tracker("mlflow", "mlflow")
class MLflow(Tracker):
    """A run of MLflow in an experiment of the study's name."""

    def __init__(self, run):
        import mlflow

        self.client = mlflow.MlflowClient()
        experiment = self.client.get_experiment_by_name(run.project)
        place = (
            experiment.experiment_id if experiment else self.client.create_experiment(run.project)
        )
        # A resumed run goes on in the one that was begun.
        found = self.client.search_runs([place], f"tags.jaxdiff = '{run.id}'")
        if not found:
            tags = {"jaxdiff": run.id}
            found = [self.client.create_run(place, run_name=run.name, tags=tags)]
        self.id = found[0].info.run_id
        self.last_step = run.last_step
        self.client.log_dict(self.id, dict(run.config), "config.json")

    def log(self, step, values):
        for name, value in values.items() if step > self.last_step else ():
            self.client.log_metric(self.id, name, value, step=step)

    def log_image(self, name, image):
        self.client.log_image(self.id, image, f"{name}.png")

    def log_table(self, name, rows):
        self.client.log_dict(self.id, {name: [dict(row) for row in rows]}, f"{name}.json")

    def close(self):
        self.client.set_terminated(self.id)
