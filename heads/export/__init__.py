"""One model out of backbone, preprocessing and head, proven from image files before it is kept."""
