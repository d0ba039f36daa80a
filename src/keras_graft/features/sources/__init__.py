"""Where data comes from: arrays of every library, tables, samples, folders of images."""
