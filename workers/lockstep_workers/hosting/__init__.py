"""What cloud pods and edges share: they receive devices, serve over HTTP, and end in order."""
