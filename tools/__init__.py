"""What the Makefile calls: build the book, keep the notebooks in step, find a browser."""
