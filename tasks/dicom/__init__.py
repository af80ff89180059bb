"""The DICOM byte stream: where each element stands, in which syntax, and what its text says."""
