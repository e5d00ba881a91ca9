"""The inference service and model tool chain of the collection onprem.deepseek."""

__version__ = "0.1.0"
