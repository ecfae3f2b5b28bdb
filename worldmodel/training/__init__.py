"""Training: one loop for every stage, on one device or many, stopped and resumed at any step."""
