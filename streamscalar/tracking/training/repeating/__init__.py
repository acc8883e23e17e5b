"""Copies of the model that repeat every update of the training: an unperturbed one, shadows and a tangent vector."""
