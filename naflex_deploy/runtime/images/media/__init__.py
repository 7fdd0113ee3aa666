"""What is inside an input: pictures of image files, pages of documents, slices of scans, frames of clips."""
