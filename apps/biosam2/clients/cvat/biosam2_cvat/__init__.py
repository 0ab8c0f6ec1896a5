"""What CVAT's functions need to ask a BioSAM-2 server; it is installed on CVAT's side, without our server.

Masks are arrays (H, W) here, rows first, as CVAT has them.
"""
