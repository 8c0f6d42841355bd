"""Training: the loss, the step, the loop, the checkpoint; `ray_train` is the one file here that knows Ray."""
