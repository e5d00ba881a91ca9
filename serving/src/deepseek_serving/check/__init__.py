"""Whether the service can read a checkpoint or a graph, checked in a bounded process."""
