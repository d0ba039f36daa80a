"""One layer or one variable for several."""
