"""Read, understand and write ONNX graphs; knows nothing of attention or Ascend."""
