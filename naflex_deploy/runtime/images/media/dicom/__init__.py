"""DICOM: files, their values as a viewer shows them, and series."""
