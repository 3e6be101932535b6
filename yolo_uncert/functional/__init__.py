"""Pure tensor maths of the uncertainty methods, free of any model or engine."""
