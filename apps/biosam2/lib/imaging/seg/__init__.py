"""DICOM Segmentation objects (PS3.3 A.51): label maps to them, and any tool's back onto the image's grid."""
