"""From a fused ONNX model to the form that ATC's parsers read: ``make`` is the door."""
