"""Training: the loss, the step, the loop, the checkpoint; only `ray_train` and `ray_report` know Ray."""
