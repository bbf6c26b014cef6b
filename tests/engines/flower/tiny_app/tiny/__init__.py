"""The smallest Flower app: linear regression, with clients that need NumPy alone and so start fast."""
