"""`make demo`: from an empty machine to a job that has trained, and how long each part took."""
