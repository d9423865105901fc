"""The frozen base forward: transformers' modules with loramux's projections and attention."""
