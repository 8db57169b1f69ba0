"""How each of the source formats becomes ONNX; run by ``scripts/build_models.py``."""
