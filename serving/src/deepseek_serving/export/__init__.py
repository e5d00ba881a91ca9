"""From a Hugging Face checkpoint to an ONNX graph."""
