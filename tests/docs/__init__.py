"""What keeps the docs true: their blocks are found, run and checked; the references are written."""
