"""Which latents are found again, in another seed or in another model, and how alike are the spaces they span?"""
