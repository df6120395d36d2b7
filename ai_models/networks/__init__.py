"""Our own networks: plain torch and MONAI modules, named in a bundle's `network_def` by their full
path.
"""
