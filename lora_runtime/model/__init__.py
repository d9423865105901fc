"""The frozen base forward: transformers' modules with loramux's attention, adapters in all of them."""
