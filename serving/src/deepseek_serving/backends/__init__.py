"""What answers requests: the local engine, an upstream server, the text encoder."""
