"""The bodies of requests: what is supported, and a clear no to what is not."""
