"""A trained model at work: opened by its address, behind requests and over many images, leaving early."""
