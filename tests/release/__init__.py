"""What is released: the wheel, the sdist, and their installation."""
