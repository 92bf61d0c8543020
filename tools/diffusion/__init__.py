"""The multi-task diffusion model: pipeline, denoising, label codes, guidance."""
