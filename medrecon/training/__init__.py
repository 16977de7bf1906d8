"""Training of priors with torch only: objectives, augmentation, slices. MONAI's trainers are in ``medrecon.workflows``."""
