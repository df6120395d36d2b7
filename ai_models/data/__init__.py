"""Readers of the real images that models are trained on and judged by; nothing here writes."""
