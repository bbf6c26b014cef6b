"""An ordinary Flower app whose server reads along."""
