"""A plain network as a file of another format, the description beside it, and the runtimes that run it."""
