"""What a trained network does with images: predictions, calibration, Grad-CAM."""
