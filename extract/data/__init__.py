"""What lies in image folders: files, content, classes, splits and groups."""
