"""What lies in a dump: every file seen, and what the head of each DICOM file says."""
