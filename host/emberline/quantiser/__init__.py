"""Post-training quantisation of float ONNX networks. Needs the packages ``onnx`` and ``onnxruntime``."""
