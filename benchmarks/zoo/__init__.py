"""A corpus of one's own: small random models of many architectures, exported and measured.

    python -m benchmarks.zoo            # needs torch, transformers, diffusers, timm, torchvision

See `README.md` in this folder.
"""
