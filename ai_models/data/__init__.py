"""Readers of the real image data that models are trained on and judged by; nothing here writes or downloads.
"""
