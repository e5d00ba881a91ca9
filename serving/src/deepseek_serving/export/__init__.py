"""From a Hugging Face checkpoint to an ONNX decoder graph."""
