"""A FederatedJob in one process: the product's own decisions and training, a virtual clock."""
