"""The inference service and model tool chain of the collection onprem.deepseek."""

import os

__version__ = "0.1.0"

# onnxruntime reports its use to its maker unless told not to, and reads this when it is loaded.
# Here it holds for every command, whichever of them comes to import onnxruntime.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
