"""What shape does a dictionary have? Maps, neighbours and clusters of its directions; arrays in, results out."""
