"""Methods that train: one loop, the losses of each family beside their specs."""
