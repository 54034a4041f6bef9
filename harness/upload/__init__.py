"""Curves and settings of finished runs for TensorBoard, Weights & Biases and MLflow."""
