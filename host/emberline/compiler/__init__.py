"""From a trained, quantised network to a program of the accelerator."""
