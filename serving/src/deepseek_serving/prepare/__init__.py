"""From the exported FP32 decoder to the precision that a GPU runs, with its accuracy measured.

The passes and the rounding are this package's own, over `onnx`, `numpy` and `ml_dtypes`; ONNX
Runtime runs the graphs that calibrate and judge. What was looked at first, and why it does not do
the work:

- NVIDIA's `nvidia-modelopt` (0.47, `[onnx]`) asks for PyTorch, the CUDA libraries, `onnx` 1.21 and
  `onnxruntime-gpu` 1.24, older than the versions that this service runs, some gigabytes on a host
  that has no use for them otherwise; and it falls back to random inputs where no calibration data
  is given, which must never happen here.
- ONNX Runtime's `quantize_static` takes the exported graph (INT8, Q/DQ). But it holds the whole
  model with its weights in memory, several times over; its scales are FP32, while TensorRT builds
  decoders in 16-bit types only, so that every scale and type would have to be rewritten after it;
  and with one scale for an activation it has nothing against the outlier channels of language
  models. Its converter to FP16 and its 4-bit quantizer load the whole model as well.

Here a weight is read from the exported file, rounded and written, one after the other: a matrix and
its quantised form are all that is in memory. The texts are read by both graphs at once, so the
judgement needs as much memory as both take in ONNX Runtime.
"""
