"""Sources of frames that keep going: readers of streams, loaders, written videos, and their timing."""
