"""De-identified copies of studies and results, for research and for better models (PS3.15 Annex E)."""
