"""Integrations with other packages: one module for each, which is imported only if the package is installed.

tensorboard.py  figures of a step as histograms and scalars
lightning.py    gradient accumulation and steps that evaluate the loss again, under PyTorch Lightning
"""
