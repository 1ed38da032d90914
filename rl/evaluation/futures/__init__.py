"""Imagined RGB-D futures beside the true ones: measures, point clouds and pictures. Nothing here knows a model."""
