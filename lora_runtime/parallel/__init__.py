"""Tensor parallel: one base split over processes by transformers' own plan, and adapters split to match it."""
