"""Training of what mien ships: the relight and the occlusion network. The only importer of torch."""
