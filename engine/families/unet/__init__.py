"""What Stable Diffusion 1.x and SDXL share: a U-Net on latents, CLIP text encoders, a VAE, in two layouts of files."""
