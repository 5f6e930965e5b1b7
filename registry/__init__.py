"""Nouns: what a model is, and where its versions are kept. No torch, no prefect, no rasterio here."""
