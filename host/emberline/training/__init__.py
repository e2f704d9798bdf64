"""The network of our own: data, model, training loop, post-training quantisation and export (extra ``train``)."""
