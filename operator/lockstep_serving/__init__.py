"""How both planes serve HTTP: uvicorn within bounds, started and stopped by its owner."""
