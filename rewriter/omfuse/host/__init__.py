"""Run models in onnxruntime on the CPU, FlashAttention lowered to what runs best here."""
