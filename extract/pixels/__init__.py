"""Image files into pixels: decoding, resizing, views."""
