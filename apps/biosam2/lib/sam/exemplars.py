"""Labelled slices of other patients as SAM 2's memory."""

FAR = 32  # slices that lie between an exemplar and what it is asked about, for the pointers' positions
