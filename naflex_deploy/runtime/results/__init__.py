"""What comes out: results of images, their files, classes, tokens and previews."""
