"""Loading learned words into diffusers pipelines, and using them there."""
