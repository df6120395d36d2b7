"""A PACS-integrated DICOM AI node.

The pipeline reads in one direction: receive -> assemble -> read -> infer -> compose -> deliver.
Stages meet only through rows in the store; `app` is the one place that knows them all.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dicom-node")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
