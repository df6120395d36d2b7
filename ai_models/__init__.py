"""Models of the node: one folder a model (an ordinary MONAI bundle), their training and their evaluation.

Nothing in here imports `dicom_node`; the node reads the bundles as data.
"""
