"""Training: the loss, the step, the loop, the checkpoint; only modules named `ray_*` know Ray."""
