"""The data plane: one package, one image, a role per pod: `cloud` or `device`."""
