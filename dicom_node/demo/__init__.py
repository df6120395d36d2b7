"""The demonstration: a node, a PACS and a scanner on one machine, from one command."""
