"""What is an SAE's error made of? Its linear and nonlinear parts, how they scale, and what they cost the model; arrays in, results out."""
