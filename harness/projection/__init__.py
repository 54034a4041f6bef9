"""Time to train on other hardware, from a model that is fitted to published systems."""
