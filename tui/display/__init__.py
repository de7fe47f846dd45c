"""What terminals need: keys in order, colours, images in half blocks, a driver that survives SSH."""
