"""Training of what mien ships, the relight and occlusion networks; alone in importing torch."""
