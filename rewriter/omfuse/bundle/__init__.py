"""A folder to carry to a board without network: models, operator, samples, and what runs them."""
