"""Training of forecaster and policy with torch; nothing else in the package needs it."""
