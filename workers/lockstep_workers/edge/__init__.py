"""The edge role: runs clusters of devices for the cloud pod, and sends up what came of it."""
