"""The host link: packets over a byte stream, their execution on the accelerator, and the top levels of boards."""
