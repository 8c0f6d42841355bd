"""What holds for every test."""

import torch

# The models are small, Ray and servers share the cores, and one thread adds up in one order: values repeat to the bit.
torch.set_num_threads(1)
