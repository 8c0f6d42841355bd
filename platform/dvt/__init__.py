"""Dynamic Vision Transformers: train, search, evaluate, register and serve classifiers that leave early.

The packages of `dvt` form layers; each imports only what stands to its left:
config -> models -> exits -> inference -> data -> train -> search -> tracking -> cli.
"""

__version__ = "0.1.0"
