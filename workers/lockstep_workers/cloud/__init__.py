"""The cloud role: coordinates rounds, averages, evaluates, keeps the model."""
