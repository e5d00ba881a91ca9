"""The files of a graph's or engine's directory: their names, and how they are read and written."""
