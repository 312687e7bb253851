"""What connects the optimizer with other packages: one module each, imported only where the package is.

tensorboard.py  what a step did, as histograms and scalars
lightning.py    gradient accumulation, and steps that need the loss again, under PyTorch Lightning
"""
